"""Every runner by name: what it is for, its module, and the environment of `.venvs/` that it runs in."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent

BUILT_BY = {
    "engine": "make engine",
    "LLaMA-Factory": "make llamafactory",
    "infodyn": "make infodyn",
    "openvla": "make openvla",
    "starVLA": "make starvla",
}
"""What builds an environment."""

OLDEST = (3, 10)
"""The Python that this project is written for."""
CALLER = "GRAFT_CALLER"
"""The interpreter that a runner of any Python was called with, where it had to go on in another."""


@dataclass(frozen=True)
class Runner:
    """`module` has `main(arguments: list[str]) -> int`, the exit code. Without an environment it needs the standard
    library alone, and runs in any Python from OLDEST on.
    """

    name: str
    group: str
    environment: str | None
    says: str
    module: str


RUNNERS = (
    Runner(
        "openvla-gradient-surgery",
        "pipelines",
        "engine",
        "gradient surgery on openvla, from a probe set to LIBERO scores",
        "runners.openvla_gradient_surgery",
    ),
    Runner(
        "starvla-sagr-flow", "pipelines", "engine", "SA-GR Flow on starVLA in four stages", "runners.starvla_sagr_flow"
    ),
    Runner(
        "starvla-libero",
        "pipelines",
        "openvla",
        "trained SA-GR policies on LIBERO with depth, part by part",
        "runners.starvla_libero",
    ),
    Runner(
        "infodyn-llamafactory",
        "pipelines",
        "LLaMA-Factory",
        "a tiny mixture of experts, scheduled, probed and analysed",
        "runners.infodyn_llamafactory",
    ),
    Runner(
        "libero-record",
        "data",
        "openvla",
        "LIBERO's demonstrations as a LeRobot data set with depth",
        "runners.libero_record",
    ),
    Runner("libero-assets", "data", None, "stand-ins for assets that LIBERO lacks", "runners.libero_assets"),
    Runner("analyze-oid", "analysis", "infodyn", "Omega-ID of a probed run's expert pairs", "runners.analyze_oid"),
    Runner(
        "infodyn-digits", "analysis", "infodyn", "schedules and routers compared on digits", "runners.infodyn_digits"
    ),
    Runner(
        "supervise",
        "tools",
        "engine",
        "a native command, resumed until it is done: supervise -- COMMAND ...",
        "runners.supervise.cli",
    ),
    Runner("headless", "tools", None, "a way to draw without a screen: headless [-- COMMAND ...]", "runners.headless"),
    Runner(
        "places",
        "tools",
        None,
        "where data, models, caches and runs lie",
        "runners.places_show",
    ),
)

SHIMS = {
    "runners/openvla_on_cpu.py SCRIPT ...": "a script of openvla on a machine without a GPU",
    "runners/starvla_on_cpu.py SCRIPT ...": "a script of starVLA on a machine without a GPU",
    "runners/seeded.py SEED SCRIPT ...": "a script with every random number generator seeded",
}
"""Scripts for python, torchrun and accelerate to launch: they stand before the script, and have no names here."""


class UnknownRunner(Exception):
    """No runner has this name; the message has the nearest."""


def find(word: str) -> Runner:
    """The runner called `word`, where - and _ are the same. Raises UnknownRunner."""
    known = {runner.name: runner for runner in RUNNERS}
    name = word.replace("_", "-")
    if name in known:
        return known[name]
    wanted = name.removesuffix(".py")
    near = [each for each in known if wanted in each] or difflib.get_close_matches(wanted, known)
    asked = f"did you mean {' or '.join(near)}?" if near else "`python -m runners` lists them"
    raise UnknownRunner(f"there is no runner {word}: {asked}")


def interpreter(environment: str) -> Path:
    """Where the environment's interpreter is, or would be."""
    return ROOT / ".venvs" / environment / "bin" / "python"


def command(name: str, *arguments: object, python: str | Path) -> list[str]:
    """The command line that runs a runner from any folder, in the interpreter `python` and in no other."""
    return [str(python), str(FOLDER), "--here", find(name).name, *map(str, arguments)]


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of the runner `name`, whose help is its module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m runners {find(name).name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def overview() -> str:
    """The list of all runners, by group."""
    lines = [
        "usage: python -m runners [--here] NAME ...       from the repository's root",
        "       python PATH/TO/runners [--here] NAME ...  from anywhere",
        "",
        "`python -m runners NAME --help` tells of one. A runner goes on in its environment of .venvs/, in brackets;",
        "--here, or GRAFT_HERE=1, keeps the interpreter that it was called with.",
    ]
    width = max(len(runner.name) for runner in RUNNERS)
    for group in dict.fromkeys(runner.group for runner in RUNNERS):
        lines += ["", f"{group}:"]
        lines += [_line(runner, width) for runner in RUNNERS if runner.group == group]
    lines += ["", "launch shims, given as scripts to python, torchrun or accelerate:"]
    wide = max(map(len, SHIMS))
    lines += [f"  {form:{wide}}  {says}" for form, says in SHIMS.items()]
    return "\n".join(lines)


def _line(runner: Runner, width: int) -> str:
    where = runner.environment
    if where is None:
        where = f"any Python from {'.'.join(map(str, OLDEST))}"
    elif not interpreter(where).exists():
        where += f", not built: {BUILT_BY[where]}"
    return f"  {runner.name:{width}}  {runner.says}  [{where}]"
