"""Schedules and experts compared on scikit-learn's digits in four tasks: accuracy, forgetting, PI, experts used.

    python -m runners infodyn-digits --seeds 5 --jobs 2
    python -m runners infodyn-digits --json --no-probes --arms "blocks, linear" "dynamic, memory"

Runs in the environment of `make infodyn`, which has scikit-learn and omegaid. Writes report.html and results.json to
--work; each finished run is kept there, and the same command goes on where a stopped comparison was. The runs
of the first seed with the schedules `blocks` and `dynamic` under the last routing are made once more with activation
probes, and their files analysed by analyze-oid. The last line printed is one JSON object.
Exit codes: 0 all done, 1 the analysis of the probes failed (the report says why), 2 bad options, or no scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.measure import machine
from look.words import Words
from look.words import add_option as add_language
from runners import places, places_options, room, table
from runners.digests import write_whole
from runners.digits import data
from runners.digits.data import TASKS
from runners.digits.keep import Arm, kept_run
from runners.digits.probing import analysed, pictures_in, probed_run
from runners.digits.report import Picture, page
from runners.digits.results import ARMS, DECIDED, MEASURES, Results, decided, name_of
from runners.digits.training import Settings
from runners.processes import Busy, sole
from runners.progress import View
from runners.versions import versions_of
from runners.work_folder import claim

NAME = "infodyn_digits"
SIZE = 256 << 20
"""Bytes that kept runs, probes and reports take at most."""
PACKAGES = ("torch", "scikit-learn", "omegaid")


def one_thread() -> None:
    """Tiny products: more threads cost more than they give, and results would depend on their number."""
    torch.set_num_threads(1)


def figures_of(results: Results) -> dict[str, Any]:
    """What is recorded: every arm's means and intervals, its values by seed, what its scheduler did, differences."""

    def shown(mean: Any) -> dict[str, float | None]:
        return {"mean": round(mean.mean, 4), "half": None if mean.half is None else round(mean.half, 4)}

    return {
        "bench": "digits",
        "seeds": results.seeds,
        "arms": {
            name_of(arm): {
                measure: {
                    **shown(results.mean(arm, measure)),
                    "values": [round(value, 4) for value in results.values(arm, measure)],
                }
                for measure in MEASURES
            }
            for arm in results.arms
        },
        "decided": {
            name_of(arm): {word: [decided(results.runs[arm][seed])[word] for seed in results.seeds] for word in DECIDED}
            for arm in results.asking
        },
        "against": {
            words: {measure: shown(results.difference(arm, other, measure)) for measure in MEASURES}
            for words, arm, other in results.comparisons()
        },
        "settings": asdict(results.settings),
    }


def show(results: Results) -> None:
    print(f"{len(results.seeds)} seeds; tasks {', '.join(TASKS)}\n{'schedule, routing':20}", end="")
    print("".join(f"{measure:>18}" for measure in MEASURES))
    for arm in results.arms:
        cells = []
        for measure in MEASURES:
            mean = results.mean(arm, measure)
            cells.append(f"{mean.mean:.3f}" + ("" if mean.half is None else f" ± {mean.half:.3f}"))
        print(f"{name_of(arm):20}" + "".join(f"{cell:>18}" for cell in cells))


def probed(results: Results, out: Path, jobs: int, words: Words) -> tuple[list[Picture], list[str]]:
    """Pictures of the probed runs, and why one has none."""
    routers = [router for _, router in results.arms]
    done, failed = {}, []
    for schedule in ("blocks", "dynamic"):
        arm: Arm = (schedule, routers[-1])
        if arm not in results.runs:
            continue
        run_dir = out / "runs" / f"{arm[0]}-{arm[1]}-seed-{results.seeds[0]}"
        probed_run(arm, results.seeds[0], results.settings, run_dir)
        if why := analysed(arm, run_dir, jobs, words.lang):
            failed.append(why)
        else:
            done[name_of(arm)] = run_dir
    return pictures_in(done, words) if done else [], failed


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = table.parser(NAME, __doc__)
    defaults, known = Settings(), [name_of(arm) for arm in ARMS]
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", choices=known, default=known, metavar="ARM", help=f"of {'; '.join(known)}")
    parser.add_argument("--choices", type=int, default=defaults.choices, help=f"default {defaults.choices}")
    parser.add_argument("--steps", type=int, default=defaults.steps, help=f"a choice, default {defaults.steps}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--no-probes", action="store_true", help="leave the probes and their analysis out")
    places_options.add_options(parser, NAME, also=["--out"], data=False, hub=False)
    add_language(parser)
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1 or options.steps < 1:
        parser.error("--seeds, --jobs and --steps must be at least 1")
    if options.choices < 1 or options.choices % defaults.test_every or options.choices % len(TASKS):
        parser.error(f"--choices must be a multiple of {defaults.test_every} and of the {len(TASKS)} tasks")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        data.load_digits()
    except ModuleNotFoundError as error:
        print(f"error: {error}, or use .venvs/infodyn (make infodyn)", file=sys.stderr)
        return 2
    try:
        here = places.resolve(options, NAME)
        room.refuse_below(here, {"--work": SIZE})
        room.need(here.work, SIZE, "the comparison")
        claim(here.work)
        with sole(here.work):
            return compare(options, here.work)
    except (places.Refused, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def trained(pairs: Sequence[tuple[Arm, int]], settings: Settings, options: argparse.Namespace, out: Path) -> list[Any]:
    """What each run found, in the order of `pairs`."""
    count, found = len(pairs), []
    with ProcessPoolExecutor(options.jobs, initializer=one_thread) as pool:
        # Before the view has a thread: a fork would copy what that one holds.
        runs = pool.map(kept_run, *zip(*pairs, strict=True), [settings] * count, [out / "kept"] * count)
        # On standard error: what is printed on the other is read by programs.
        with View(out.name, stream=sys.stderr, lang=options.lang) as view:
            view.stage("infodyn-digits", count, "run")
            view.update(0)
            for (arm, seed), run in zip(pairs, runs, strict=True):
                found.append(run)
                view.update(len(found))
                view.note(f"{name_of(arm)}, seed {seed}")
    return found


def compare(options: argparse.Namespace, out: Path) -> int:
    """Trains what `out` does not hold yet, and writes results.json and report.html there; returns the exit code."""
    began, resumed = time.perf_counter(), (out / "kept").exists()
    settings = Settings(choices=options.choices, steps=options.steps)
    arms = [arm for arm in ARMS if name_of(arm) in options.arms]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    pairs = [(arm, seed) for seed in seeds for arm in arms]
    found = trained(pairs, settings, options, out)
    runs: dict[Arm, dict[int, Any]] = {arm: {} for arm in arms}
    for (arm, seed), run in zip(pairs, found, strict=True):
        runs[arm][seed] = run
    results = Results(runs, settings, versions_of(sys.executable, PACKAGES) | {"machine": machine()})
    one_thread()
    words = Words(options.lang)
    pictures, failed = ([], []) if options.no_probes else probed(results, out, options.jobs, words)
    figures = {**figures_of(results), "machine": machine()}
    # Of a comparison that went on where it was, the wall time would be that of a part.
    figures["seconds"] = None if resumed else round(time.perf_counter() - began)
    figures["cpu_seconds_of_training"] = round(sum(run["cpu_seconds"] for run in found))
    write_whole(out / "results.json", json.dumps(figures))
    write_whole(out / "report.html", page(results, pictures, failed, words))
    if not options.json:
        show(results)
        print("".join(f"{line}\n" for line in failed) + f"{out / 'report.html'}")
    print(json.dumps(figures))
    return 1 if failed else 0
