"""Omega-ID of a run's expert pairs: what they hold redundantly, alone and together about a target, over epochs.

    python -m runners analyze-oid --run-dir RUN --top-n-experts 4 --redundancy MMI

Runs in the environment of `make infodyn`. Reads RUN/probes/P/epoch_N.pt.gz and writes RUN/oid_plots/P/: report.html,
its pictures as SVG files, and atoms.csv. An analysis that was stopped goes on with the pairs that are left. With
OMEGAID_BACKEND=cupy omegaid computes on a GPU (see envs/infodyn/requirements-gpu.txt).
Exit codes: 0 all done, 1 no pair could be computed, 2 bad options or nothing to analyse, 3 done, but files were skipped
that are damaged or foreign, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from look.words import Words
from look.words import add_option as add_language
from runners import table
from runners.oid.parallel import one_thread
from runners.progress import View

NAME = "analyze_oid"
RANKS = {"gaussian": 4, "discrete": 1}
"""Components of each variable by default. A discrete one has 2 ** (4 rank) joint states."""
NEEDED = ("numpy", "scipy", "torch", "numba", "omegaid")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def parser() -> argparse.ArgumentParser:
    options = table.parser(NAME, __doc__)
    options.add_argument("--run-dir", type=Path, required=True, metavar="RUN", help="folder that holds probes/")
    options.add_argument("--probe-name", metavar="P", help="one probe; default: all that the run has")
    options.add_argument("--top-n-experts", type=at_least(2), default=4, metavar="N", help="default 4")
    options.add_argument("--redundancy", choices=("MMI", "CCS"), default="MMI", help="default MMI")
    options.add_argument(
        "--out", type=Path, metavar="DIR", help="instead of RUN/oid_plots; a folder a probe is made in it"
    )
    options.add_argument("--kind", choices=tuple(RANKS), default="gaussian", help="of variables; default gaussian")
    options.add_argument(
        "--rank",
        type=at_least(1),
        help="components that each expert and each half of the target is reduced to; default 4, discrete 1 (at most 4)",
    )
    options.add_argument(
        "--rows",
        choices=("auto", "dense", "routed"),
        default="auto",
        help="dense: all rows on which both experts were evaluated; routed: only those routed to both; auto: dense "
        "where the file holds dense evaluations",
    )
    options.add_argument(
        "--min-samples",
        type=at_least(16),
        default=256,
        help="common rows below which a pair is not computed; default 256",
    )
    options.add_argument("--max-samples", type=at_least(16), default=4096, help="of more, a random part; default 4096")
    options.add_argument(
        "--surrogates", type=at_least(10), default=50, help="shuffles for the mean to subtract, and halves; default 50"
    )
    options.add_argument("--seed", type=at_least(0), default=0)
    options.add_argument("--jobs", type=at_least(1), default=cores(), help="processes; default: the cores")
    add_language(options)
    return options


def run(options: argparse.Namespace, probe: str) -> int:
    """Analyses one probe; returns an exit code. Raises Nothing, and KeyboardInterrupt with words once it writes."""
    from runners.oid.analysis import Choice, analyse
    from runners.oid.estimate import Settings
    from runners.oid.kept import FILE, Kept, key_of
    from runners.oid.report import report_files, write_files
    from runners.oid.table import csv_text
    from runners.versions import versions_of

    settings = Settings(
        rank=options.rank or RANKS[options.kind],
        redundancy=options.redundancy,
        kind=options.kind,
        surrogates=options.surrogates,
        min_samples=options.min_samples,
        seed=options.seed,
    )
    choice = Choice(options.top_n_experts, options.rows, options.max_samples, options.jobs)
    made = {name: str(value) for name, value in sorted({**vars(settings), **vars(choice)}.items())}
    made |= versions_of(sys.executable, NEEDED)
    folder = (options.out or options.run_dir / "oid_plots") / probe
    kept = Kept(folder / FILE, key_of(options.run_dir / "probes" / probe, made))
    if kept.known:
        print(f"{probe}: {len(kept.known)} pairs are kept of an analysis that was stopped", file=sys.stderr)
    # On standard error: what is printed on the other is read by programs.
    with View(NAME.replace("_", "-"), stream=sys.stderr, lang=options.lang) as view:
        view.stage(probe, unit="pair")
        view.note(f"reads {options.run_dir / 'probes' / probe}")
        analysis = replace(analyse(options.run_dir, probe, choice, settings, kept, view.update), made_with=made)
    files = {"atoms.csv": csv_text(analysis.results, settings), **report_files(analysis, Words(options.lang))}
    try:
        write_files(folder, files)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{folder} may hold files of two analyses, each whole: run it again") from None
    kept.drop()
    for line in analysis.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    computed = [result for result in analysis.results if result.values]
    for result in analysis.results:
        if result.problem:
            pair = f"epoch {result.epoch}, {result.first} and {result.second}"
            print(f"not computed: {pair}: {result.problem}", file=sys.stderr)
    singular = sum(result.singular for result in computed)
    print(
        f"{probe}: {len(computed)} of {len(analysis.results)} computed, {singular} with a singular covariance, "
        f"{len(analysis.skipped)} files skipped\n    {folder / 'report.html'}"
    )
    return 1 if not computed else 3 if analysis.skipped else 0


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {', '.join(missing)} not installed: use .venvs/infodyn (make infodyn)", file=sys.stderr)
        return 2
    if options.kind == "discrete" and (options.rank or 1) > 4:
        print(
            f"error: --rank {options.rank}: discrete variables have 2 ** (4 rank) states, give at most 4",
            file=sys.stderr,
        )
        return 2
    if options.max_samples < options.min_samples:
        print("error: --max-samples is less than --min-samples: no pair could be computed", file=sys.stderr)
        return 2
    one_thread()
    from runners.oid.analysis import Nothing
    from runners.oid.probe_files import probes_in

    there = probes_in(options.run_dir)
    probes = [options.probe_name] if options.probe_name else there
    if not probes or not set(probes) <= set(there):
        known = f"there are {', '.join(there)}" if there else f"{options.run_dir / 'probes'} holds none"
        print(f"error: no probe {options.probe_name or ''} to analyse: {known}".replace("  ", " "), file=sys.stderr)
        return 2
    codes = []
    for probe in probes:
        try:
            codes.append(run(options, probe))
        except Nothing as error:
            for line in error.skipped:
                print(f"skipped: {line}", file=sys.stderr)
            print(f"error: {error}", file=sys.stderr)
            codes.append(2)
        except KeyboardInterrupt as error:
            otherwise = f"nothing was written for {probe}; finished pairs are kept: run it again"
            print(f"interrupted: {str(error) or otherwise}", file=sys.stderr)
            return 130
    return next((code for code in (2, 1, 3) if code in codes), 0)
