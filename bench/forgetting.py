"""How much of the general accuracy that plain LoRA loses gradient surgery keeps, at equal downstream success.

    .venvs/LLaMA-Factory/bin/python bench/forgetting.py [--json] [--seeds 5] [--arms baseline,method,...]
    .venvs/LLaMA-Factory/bin/python bench/forgetting.py --read bench/results/FILE   the tables of an earlier run

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
import hashlib
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from measure import machine  # noqa: E402

from runners.intervals import mean_of  # noqa: E402
from tests.standins.openvla_project import STANDIN, OpenVLAProject  # noqa: E402

STEPS, EVERY = 200, 20
BATCH, RATE, RANK = 16, 5e-4, 32  # upstream's defaults
DOWNSTREAM, PROBE = 512, 256
LAYERS, GROUPS, DIRECTIONS, TESTED = "0,1,2,3", "3:3-4", 32, 192
REACH = (0.5, 0.8, 0.95)
SURGERY = {"thermostat.every": 10, "thermostat.samples": 64, "thermostat.cold_start": 2, "log_every": 20}

GUARD: dict[str, object] = {"surgery.input_guard": 0.99, "learning_rate": 10 * RATE}

ARMS: dict[str, tuple[str | None, dict[str, object]]] = {
    "baseline": (None, {}),
    "lower_rate": (None, {"learning_rate": RATE / 4}),
    "method": ("vulnerability", {}),
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
"""Each arm: how its subspaces are ranked (None: the method is off), and the options that differ."""


def seed_run(seed: int, arms: Sequence[str], home: Path) -> dict[str, list[tuple[int, float, float]]]:
    """One seed: for every arm (step, general accuracy, downstream success), step 0 being the pretrained checkpoint."""
    import torch

    torch.set_num_threads(1)
    sys.path.append(str(STANDIN))
    from toy_world.batches import write_data
    from toy_world.evaluate import evaluate_checkpoint
    from toy_world.pretrain import pretrain
    from toy_world.tasks import make_world

    world = make_world(seed)
    project = OpenVLAProject.make(home / "graft")
    checkpoint = pretrain(home / "toy-7b", seed)
    write_data(home / "data", "downstream", world.samples("downstream", DOWNSTREAM))
    write_data(home / "data", "general", world.samples("general", PROBE, "probe"))
    for ranked in {ranked for name, (ranked, _) in ARMS.items() if name in arms and ranked is not None}:
        _subspaces(project, checkpoint, home, ranked, seed)

    def score(folder: Path) -> tuple[float, float]:
        found = evaluate_checkpoint(folder, world, TESTED)
        return found["general_accuracy"], found["downstream_success"]

    start = score(checkpoint)
    curves = {}
    for name in arms:
        ranked, changes = ARMS[name]
        options: dict[str, object] = {
            **{"vla_path": checkpoint, "data_root_dir": home / "data", "dataset_name": "downstream"},
            **{"batch_size": BATCH, "max_steps": STEPS, "save_steps": EVERY, "learning_rate": RATE, "lora_rank": RANK},
            **{"save_latest_checkpoint_only": False, "image_aug": False},
        }
        if ranked is not None:
            options |= {"surgery.enabled": True, "surgery.probe_dir": home / "probe"}
            options |= {"surgery.subspace_dir": home / f"icms_{ranked}"}
            options |= {f"surgery.{key}": value for key, value in SURGERY.items()}
        arguments = [text for key, value in (options | changes).items() for text in (f"--{key}", str(value))]
        place = home / name
        project.run("vla-scripts/finetune.py", *arguments, cwd=place, seed=seed, timeout=1800).check()
        saved = {int(folder.name.split("--")[-1].split("_")[0]): folder for folder in place.glob("runs/*_chkpt")}
        curves[name] = [(0, *start), *((step, *score(saved[step])) for step in sorted(saved))]
        shutil.rmtree(place)
    return curves


def kept_run(
    seed: int, arms: Sequence[str], home: Path, keep: Path | None
) -> dict[str, list[tuple[int, float, float]]]:
    """The same, read from ``keep`` where an earlier run of these very arms, settings and code left it."""
    if keep is None:
        return seed_run(seed, arms, home)
    code = [Path(__file__), *sorted(STANDIN.rglob("*.py")), *sorted((ROOT / "overlays/openvla").rglob("*.py"))]
    code += sorted((ROOT / "patches/openvla").glob("*.py"))
    state = hashlib.sha256(b"\0".join([",".join(arms).encode(), *(file.read_bytes() for file in code)])).hexdigest()
    file = keep / f"seed-{seed}-{state[:12]}.json"
    if not file.exists():
        found = seed_run(seed, arms, home)
        keep.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(file)
    found = json.loads(file.read_text(encoding="utf-8"))
    return {name: [tuple(point) for point in curve] for name, curve in found.items()}


def _subspaces(project: OpenVLAProject, checkpoint: Path, home: Path, ranked: str, seed: int) -> None:
    if not (home / "probe").exists():
        probe = ("--out", home / "probe", "--data_root_dir", home / "data", "--dataset_name", "general")
        words = map(str, (*probe, "--image_size", 32, "--n", PROBE, "--seed", seed))
        project.run("-m", "research.probe.probe_dataset", *words, cwd=home / "make-probe").check()
    icms = ("--vla_path", checkpoint, "--probe", home / "probe", "--out", home / f"icms_{ranked}", "--layers", LAYERS)
    more = ("--groups", GROUPS, "--r", DIRECTIONS, "--output_tokens", 7, "--rank_by", ranked, "--seed", seed)
    words = map(str, (*icms, *more, "--dtype", "float32"))
    project.run("-m", "research.icms.offline_icms", *words, cwd=home / f"make-{ranked}").check()


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}; the baseline always runs")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time")
    parser.add_argument("--keep", type=Path, help="folder for each seed's result, so that a stopped run can go on")
    parser.add_argument("--read", type=Path, help="a file whose line of this bench is shown again; nothing is run")
    options = parser.parse_args()
    if options.read is not None:
        lines = map(json.loads, options.read.read_text(encoding="utf-8").splitlines())
        show([line for line in lines if "curves" in line][-1]["curves"])
        return 0
    arms = list(dict.fromkeys(["baseline", *options.arms.split(",")]))
    if unknown := [name for name in arms if name not in ARMS]:
        parser.error(f"no arm is called {unknown[0]}: one of {', '.join(ARMS)}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.jobs) as pool:
        count = options.seeds
        homes = [Path(folder, str(seed)) for seed in range(count)]
        curves = list(pool.map(kept_run, range(count), [arms] * count, homes, [options.keep] * count))
    if not options.json:
        show(curves)
    settings = {"steps": STEPS, "rate": RATE, "rank": RANK, "layers": LAYERS, "groups": GROUPS, "r": DIRECTIONS}
    settings |= SURGERY
    found = {str(reach): summary(curves, arms, reach) for reach in REACH}
    figures = {"bench": "forgetting", "seeds": options.seeds, "at": found, "curves": curves, "settings": settings}
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - began), "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
