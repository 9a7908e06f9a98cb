"""The demo, step by step: LLaMA-Factory (materials, four runs, a look inside one sample), then a chapter a method.

    .venvs/engine/bin/python -m demo [--lang zh]

`make demo` builds the three environments and grafts LLaMA-Factory first. A step whose inputs are unchanged is skipped.
The report is written before the first chapter begins, and again with each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from demo import infodyn, infodyn_chapter, openvla, openvla_chapter, starvla, starvla_chapter
from demo.parts import failed, pending
from demo.report import page
from demo.runs import Run, RunFailed, all_runs, fell, new_files, state_of, train, write_config
from look.words import Words, add_option
from runners.digests import write_whole

NAME = "LLaMA-Factory"
CHECKOUT = Path("upstreams") / NAME
HOME = Path("artifacts/demo")
CODE = Path("demo")
CHAPTERS = {
    "infodyn": (NAME, infodyn, infodyn_chapter, "LLaMA-Factory: information dynamics, three tasks by evaluation"),
    "openvla": ("openvla", openvla, openvla_chapter, "openvla: gradient surgery, off and on"),
    "starVLA": ("starVLA", starvla, starvla_chapter, "starVLA: SA-GR Flow, off and in four stages"),
}
"""By folder: the upstream, what gathers the facts, what writes them down, and what to say before."""


def say(number: int, text: str) -> None:
    print(f"==> [{number}/{4 + len(CHAPTERS)}] {text}", flush=True)


def make_materials(python: Path) -> None:
    """Runs `materials.py` unless its output is there from the same code.

    Raises RunFailed.
    """
    stamp = HOME / "materials.txt"
    code = "\0".join((CODE / name).read_text(encoding="utf-8") for name in ("samples.py", "materials.py"))
    if stamp.exists() and stamp.read_text(encoding="utf-8") == code:
        print(f"    kept in {HOME}", flush=True)
        return
    _run([str(python), str(CODE / "materials.py"), str(HOME)])
    write_whole(stamp, code)


def inspect(python: Path, run: Run, state: str) -> dict[str, Any]:
    """What `inspect_sample.py` says about the first sample of `run`, kept while `state` is the same.

    Raises RunFailed.
    """
    target = HOME / "sample.json"
    key = f"{state} {write_config(run)} {(CODE / 'inspect_sample.py').read_text(encoding='utf-8')}"
    if target.exists():
        known: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        if known["key"] == key:
            print(f"    kept in {target}", flush=True)
            return known
    found = json.loads(_run([str(python), str(CODE / "inspect_sample.py"), str(run.config)]).splitlines()[-1])
    found["key"] = key
    write_whole(target, json.dumps(found))
    return dict(found)


def _run(command: list[str]) -> str:
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if run.returncode:
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-25:])
        raise RunFailed(f"{' '.join(command)} ended with {run.returncode}\n{tail}")
    return run.stdout


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip("\n")


def upstream_reports() -> dict[str, dict[str, Any]]:
    """What `python apply.py status --json` says of each upstream.

    Raises RunFailed where it says nothing.
    """
    command = [sys.executable, "apply.py", "status", "--json"]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        return dict(json.loads(run.stdout)["upstreams"])
    except (ValueError, KeyError):
        raise RunFailed(f"{' '.join(command)} ended with {run.returncode}\n{run.stdout}{run.stderr}") from None


def in_words(report: dict[str, Any]) -> str:
    """One upstream's entry in the JSON of `status`: its state, whether its tree is proven, its packs, its remarks."""
    packs = ", ".join(report["packs"])
    parts = [
        report["state"],
        "tree id proven" if report["tree_proven"] else "",
        f"packs {packs}" if packs else "",
        report.get("source", ""),
        *report.get("notes", []),
        *(error["error"] for error in report["errors"]),
    ]
    return "; ".join(part for part in parts if part)


def upstream_states() -> dict[str, str]:
    """The same in words, for whoever prints it: `.ci/run` does."""
    return {name: in_words(report) for name, report in upstream_reports().items()}


def gather(results: dict[str, Any], seen: dict[str, Any], upstreams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The facts that `report.page` wants."""
    return {
        "diff": _git("diff", "--no-color", "--no-ext-diff", "-U2", "HEAD"),
        "overlays": [
            {"path": str(path.relative_to(CHECKOUT)), "text": path.read_text(encoding="utf-8")}
            for path in new_files(CHECKOUT)
        ],
        "runs": results,
        "sample": seen["sample"],
        "biases": seen["biases"],
        "versions": {
            **seen["versions"],
            "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        },
        "upstreams": {name: in_words(report) for name, report in upstreams.items()},
        "pin": f"{NAME} {_git('rev-parse', 'HEAD')}",
        "when": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }


def add_chapters(
    report: Path, facts: dict[str, Any], upstreams: dict[str, dict[str, Any]], python: Path, words: Words
) -> list[str]:
    """Runs each further part of the demo, and writes the report again with its chapter, or with why there is none.

    Returns why some failed. `python` is LLaMA-Factory's interpreter, for the stand-ins too.
    """
    texts = {name: pending(writer.title(words), words) for name, (_, _, writer, _) in CHAPTERS.items()}
    write_whole(report, page(facts, "\n".join(texts.values()), words))
    bad = []
    for number, (name, (upstream, gatherer, writer, says)) in enumerate(CHAPTERS.items(), 5):
        say(number, says)
        try:
            texts[name] = writer.chapter(gatherer.facts_of(upstreams.get(upstream), HOME / name, python), words)
        except RunFailed as error:
            texts[name] = failed(writer.title(words), str(error), words)
            bad.append(f"the chapter on {name} did not end well: {error}")
        write_whole(report, page(facts, "\n".join(texts.values()), words))
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--environment", type=Path, default=Path(".venvs/LLaMA-Factory"), help="where LLaMA-Factory runs"
    )
    add_option(parser)
    options = parser.parse_args()
    # The runners that the chapters start write pages and pictures of their own.
    os.environ["GRAFT_LANG"] = options.lang
    bin_folder = options.environment / "bin"
    if not (CHECKOUT / "src").is_dir():
        print(f"error: {CHECKOUT} is not there: run `python apply.py {NAME}` first, or `make demo`", file=sys.stderr)
        return 1
    start = time.monotonic()
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        say(1, "materials: tokenizer, two tiny models, two data sets")
        make_materials(bin_folder / "python")
        stamp = bin_folder.parent / "graft-environment.json"
        state = state_of(CHECKOUT, HOME / "materials.txt", *([stamp] if stamp.exists() else []))
        say(2, "training: LLaMA-Factory's own command, methods off and on")
        runs = all_runs(HOME)
        results = {run.name: train(run, bin_folder / "llamafactory-cli", state) for run in runs}
        say(3, "one sample, seen from inside")
        seen = inspect(bin_folder / "python", next(run for run in runs if run.on), state)
        say(4, "report")
        upstreams = upstream_reports()
        facts = gather(results, seen, upstreams)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = HOME / "report.html"
    bad = add_chapters(report, facts, upstreams, bin_folder / "python", Words(options.lang))
    print(f"\nreport: {report} ({time.monotonic() - start:.0f} s)")
    for why in bad:
        print(f"error: {why}", file=sys.stderr)
    flat = [name for name, result in results.items() if not fell(result)]
    if flat:
        print(f"error: the loss of {', '.join(flat)} did not fall to half of where it began", file=sys.stderr)
    return 1 if flat or bad else 0


if __name__ == "__main__":
    sys.exit(main())
