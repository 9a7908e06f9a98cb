"""How much of the general accuracy that plain LoRA loses gradient surgery keeps, at equal downstream success.

    .venvs/LLaMA-Factory/bin/python bench/forgetting.py [--json] [--seeds 5] [--arms baseline,method,...]
    .venvs/LLaMA-Factory/bin/python bench/forgetting.py --read bench/results/FILE   the tables of an earlier run
    .venvs/LLaMA-Factory/bin/python bench/forgetting.py --read bench/results/FILE --without 0   without a seed

Runs on the stand-in openvla of tests/standins (a small working VLA of this project's own), grafted with the real packs:
each seed's world is pretrained on its general tasks, then every arm fine-tunes the same checkpoint on the downstream
tasks with the stand-in's own finetune.py and the grafted overlay, from the same seed. Every `EVERY` steps the merged
checkpoint is scored on held-out samples of both kinds. For each arm and each share in `REACH` two things are reported:
the general accuracy where its downstream success first reaches that share of the baseline's best (between two
checkpoints by a straight line), and the share of the baseline's loss that it does not lose there (`kept`; below zero,
it loses more). An arm that never gets there is said to. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.forgetting_run import DIRECTIONS, GROUPS, LAYERS, RANK, RATE, STEPS, SURGERY, Arm, kept_run, settings_of
from bench.measure import machine
from runners.intervals import mean_of

REACH = (0.5, 0.8, 0.95)

GUARD: dict[str, object] = {"surgery.input_guard": 0.99, "learning_rate": 10 * RATE}

ARMS: dict[str, Arm] = {
    "baseline": (None, {}),
    "lower_rate": (None, {"learning_rate": RATE / 4}),
    "method": ("vulnerability", {}),
    "method_3x": ("vulnerability", {"learning_rate": 3 * RATE}),
    "method_10x": ("vulnerability", {"learning_rate": 10 * RATE}),
    "no_icsm_rerank": ("singular_value", {}),
    "random_subspace": ("random", {}),
    "no_thermostat": ("vulnerability", {"surgery.thermostat.enabled": False}),
    "no_hsw": ("vulnerability", {"surgery.hsw": False}),
    # Not the method: the input guard (research/hooks/input_guard.py) alone and with it, and what its rate does alone.
    "input_guard": ("vulnerability", {"surgery.hsw": False, **GUARD}),
    "method_and_guard": ("vulnerability", GUARD),
    "higher_rate": (None, {"learning_rate": 10 * RATE}),
    # Not an ablation: the strongest damping there is, so that no setting of beta and gamma could do more.
    "null_space": ("vulnerability", {"surgery.thermostat.enabled": False, "surgery.beta": 0.0, "surgery.gamma": 0.0}),
}


def general_at(curve: Sequence[tuple[int, float, float]], success: float) -> float | None:
    """General accuracy where the downstream success first reaches ``success``; None where it never does."""
    for (_, general, before), (_, then, after) in itertools.pairwise(curve):
        if after >= success:
            share = (success - before) / (after - before) if after > before else 1.0
            return general + max(0.0, share) * (then - general)
    return None


def summary(
    curves: Sequence[Mapping[str, Sequence[tuple[int, float, float]]]], arms: Sequence[str], reach: float
) -> dict[str, Any]:
    """For every arm means and 95 % intervals over the seeds, at the same success for all arms of a seed."""
    result: dict[str, Any] = {}
    for name in arms:
        kept, general = [], []
        for own in curves:
            target = reach * max(success for _, _, success in own["baseline"])
            start, lost_to = own["baseline"][0][1], general_at(own["baseline"], target)
            reached = general_at(own[name], target)
            # A baseline that has lost nothing there leaves nothing to keep.
            if reached is not None and lost_to is not None and lost_to < start:
                general.append(reached)
                kept.append(1.0 - (start - reached) / (start - lost_to))
        result[name] = {
            "reached": f"{len(kept)} of {len(curves)}",
            "general": _with_interval(general),
            "kept": _with_interval(kept),
            "last_general": statistics.fmean(own[name][-1][1] for own in curves),
            "last_downstream": statistics.fmean(own[name][-1][2] for own in curves),
        }
    return result


def _with_interval(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "half": None}
    found = mean_of(values)
    return {"mean": found.mean, "half": found.half}


def show(curves: Sequence[Mapping[str, Sequence[tuple[int, float, float]]]]) -> None:
    """Prints a table for every share of the baseline's success."""
    before = statistics.fmean(own["baseline"][0][1] for own in curves)
    print(f"{len(curves)} seeds, general accuracy before: {before:.3f}")
    for reach in REACH:
        print(f"\nwhere an arm reaches {reach:.0%} of the baseline's best downstream success")
        print(f"{'arm':18}{'general':>9}{'kept':>9}{'95 %':>11}{'reached':>9}   at the end: general, downstream")
        for name, row in summary(curves, list(curves[0]), reach).items():
            kept, half = row["kept"]["mean"], row["kept"]["half"]
            shown = "" if kept is None else f"{row['general']['mean']:9.3f}{kept:9.1%}"
            around = "" if half is None else f"± {half:.1%}"
            end = f"{row['last_general']:.3f}, {row['last_downstream']:.3f}"
            print(f"{name:18}{shown:18}{around:>11}{row['reached']:>9}   {end}")


def figures_of(
    curves: Sequence[Mapping[str, Sequence[tuple[int, float, float]]]], arms: Mapping[str, Arm]
) -> dict[str, Any]:
    """What is recorded of a run: the curves, what they come to, the common settings and those of each arm."""
    common = {"steps": STEPS, "rate": RATE, "rank": RANK, "layers": LAYERS, "groups": GROUPS, "r": DIRECTIONS}
    return {
        "bench": "forgetting",
        "seeds": len(curves),
        "at": {str(reach): summary(curves, list(arms), reach) for reach in REACH},
        "curves": curves,
        "settings": {**common, **SURGERY},
        "arms": {name: settings_of(arm) for name, arm in arms.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}; the baseline always runs")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time")
    parser.add_argument("--keep", type=Path, help="folder for each arm's curves, so that a stopped run can go on")
    parser.add_argument("--read", type=Path, help="a file whose line of this bench is shown again; nothing is run")
    parser.add_argument("--without", default="", metavar="0,1", help="with --read: seeds left out of the tables")
    options = parser.parse_args(arguments)
    if options.read is not None:
        lines = map(json.loads, options.read.read_text(encoding="utf-8").splitlines())
        curves = [line for line in lines if "curves" in line][-1]["curves"]
        left_out = {seed for seed in options.without.split(",") if seed}
        if not left_out < {str(seed) for seed in range(len(curves))}:
            parser.error(f"--without {options.without}: some of the seeds 0 to {len(curves) - 1}, but not all")
        show([own for seed, own in enumerate(curves) if str(seed) not in left_out])
        return 0
    if options.without:
        parser.error("--without belongs to --read")
    names = list(dict.fromkeys(["baseline", *options.arms.split(",")]))
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"no arm is called {unknown[0]}: one of {', '.join(ARMS)}")
    arms = {name: ARMS[name] for name in names}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.jobs) as pool:
        count = options.seeds
        homes = [Path(folder, str(seed)) for seed in range(count)]
        curves = list(pool.map(kept_run, range(count), [arms] * count, homes, [options.keep] * count))
    if not options.json:
        show(curves)
    print(json.dumps({**figures_of(curves, arms), "seconds": round(time.perf_counter() - began), "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
