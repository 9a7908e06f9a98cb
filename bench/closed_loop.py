"""What each part of SA-GR Flow is worth in the closed loop, when the named object is moved in the middle of a chunk.

    .venvs/LLaMA-Factory/bin/python bench/closed_loop.py [--json] [--seeds 5] [--keep DIR] [--report FILE]

Runs the real framework on the stand-in starVLA of tests/standins, grafted with the real packs, in the world of
runners/reach_world, on a CPU. A small vision-language model learns to point; then for each seed the expert's
demonstrations are recorded anew and policies are trained on them: the baseline (QwenPI: pictures and state), and by the
method's own four stages one with the anchor in exact depth, one that has feedback tokens too, and one without masks.
Guidance and replanning need no training of their own. Every arm then plays the same episodes in three worlds: nothing
goes wrong, the named object is moved, the tip is off. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.closed_loop_policy import (  # noqa: E402
    BATCH,
    BUDGETS,
    DEMONSTRATIONS,
    EXECUTE,
    FUTURE,
    HORIZON,
    LIMIT,
    NOISE,
    PAST,
    FrameworkPolicy,
    build,
    configuration,
    make_model,
    scaled,
    train_policy,
)
from bench.measure import machine  # noqa: E402
from look.words import Words  # noqa: E402
from look.words import add_option as add_language  # noqa: E402
from tests.standins.starvla_project import StarVLAProject  # noqa: E402

EPISODES, THINGS = 50, 4
MODEL = "Qwen2.5-VL-toy"


@dataclass(frozen=True)
class Arm:
    """`trained`: which weights it plays; `sagr`: what differs from their configuration; `replan`: whether it may
    clear its queue.
    """

    says: str
    trained: str
    sagr: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replan: bool = False


GUIDED = {"guidance": {"enabled": True, "step": "line_search", "eta": 1.0}}
SOFT = {"guidance": {"enabled": True, "step": "line_search", "eta": 0.3}}
POOLED = {"anchor": {"enabled": False}}
FIXED = {"guidance": {"enabled": True, "step": "fixed", "eta": 0.2}}
ARMS = {
    "baseline": Arm("flow matching on pictures and state (QwenPI)", "baseline"),
    "pooled": Arm("the mean of the depth geometry's tokens, no anchor", "pooled", POOLED),
    "anchor": Arm("task tokens anchored in depth geometry", "anchor"),
    "guidance": Arm("and residual guidance", "anchor", GUIDED),
    "replanning": Arm("and the queue is cleared above tau", "anchor", GUIDED, True),
    "feedback": Arm("and feedback tokens", "feedback", GUIDED, True),
    "replanning_alone": Arm("the anchor and replanning, without guidance", "anchor", {}, True),
    "guidance_soft": Arm("the anchor and guidance by three tenths of the way, eta 0.3", "anchor", SOFT),
    "fixed_step": Arm("the anchor and guidance of the published step, eta 0.2", "anchor", FIXED),
    "ungrounded": Arm("the anchor, never told where the named object is", "ungrounded"),
}
REMARKS = (
    "The framework, the losses and the guidance are the overlay's own; starVLA around them is the stand-in of "
    "tests/standins, with a small vision-language model that was taught to point in scenes of this world.",
    "Within the control steps of an episode an arm that does not replan samples two chunks; one that does may sample "
    "more.",
    "The arms with an anchor were told by masks where the named object is, in training; the baseline's model was told "
    "the same when it learned to point.",
    "What a disturbance costs is counted for the arm `anchor`: guidance, replanning and feedback are added to it.",
)
COMPARED = "anchor"
"""What a disturbance costs is counted for this arm."""


def use_tree(home: Path) -> None:
    """Makes the grafted stand-in below `home` importable."""
    sys.path.insert(0, str(home / "graft" / "project" / "upstreams" / "starVLA"))


def episodes_of(seed: int, count: int) -> list[int]:
    """The episodes that a training seed's policies play: each a scene of its own, that no other seed plays, so that the
    interval over seeds holds the scenes too. Settings were found in episodes below 200.
    """
    return [THINGS * (10_000 * (seed + 1) + number) + number % THINGS for number in range(count)]


def policy_of(name: str, model: Path, weights: Path) -> FrameworkPolicy:
    """An arm ready to play."""
    import torch

    arm = ARMS[name]
    loaded = torch.load(weights, weights_only=True)
    return FrameworkPolicy(build(configuration(model, arm.trained, arm.sagr), loaded).eval(), arm.replan)


def seed_run(seed: int, arms: Sequence[str], episodes: int, place: Path) -> None:
    """One seed: the policies that the arms need, and every arm's episodes, each a file below `place`; what lies there
    already is kept.
    """
    import torch

    torch.set_num_threads(1)
    use_tree(place.parent)
    from runners.reach_world.evaluate import WORLDS, evaluate
    from runners.reach_world.record import examples_of, record

    place.mkdir(parents=True, exist_ok=True)
    model = place.parent / MODEL
    wanted = [name for name in dict.fromkeys(ARMS[arm].trained for arm in arms) if not (place / f"{name}.pt").exists()]
    if wanted:
        # Far from the seeds of the episodes that are played.
        first = 10_000_000 * (seed + 1)
        demonstrations = record(range(first, first + DEMONSTRATIONS), noise=NOISE)
        examples = [scaled(example) for example in examples_of(demonstrations, HORIZON, FUTURE, PAST)]
        for trained in wanted:
            train_policy(trained, seed, examples, model, place / f"{trained}.pt")
    for arm in arms:
        for world, disturbances in WORLDS.items():
            log = place / arm / f"{world}.jsonl"
            if not log.exists():
                policy = policy_of(arm, model, place / f"{ARMS[arm].trained}.pt")
                evaluate(policy, episodes_of(seed, episodes), disturbances, log, execute_steps=EXECUTE, limit=LIMIT)


def model_of(home: Path) -> dict[str, Any]:
    """The vision-language model of all seeds, below `home`; what is known of how it learned."""
    import torch

    torch.set_num_threads(1)
    use_tree(home)
    told = home / "pointing.json"
    if not told.exists():
        shutil.rmtree(home / f"{MODEL}.part", ignore_errors=True)
        found = make_model(home / f"{MODEL}.part")
        (home / f"{MODEL}.part").rename(home / MODEL)
        told.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(told.read_text(encoding="utf-8"))


def results_of(places: Mapping[int, Path], arms: Sequence[str], episodes: int) -> Any:
    """runners.reach_world.results.Results of all seeds."""
    from runners.reach_world.evaluate import WORLDS, read_log
    from runners.reach_world.results import Results

    logs = {
        arm: {
            world: {seed: read_log(place / arm / f"{world}.jsonl") for seed, place in places.items()}
            for world in WORLDS
        }
        for arm in arms
    }
    settings = {
        "world": "runners/reach_world on MuJoCo, one camera of 48 x 48 pixels with exact depth",
        "framework": "MapAnythingLlava3DPI on the stand-in starVLA of tests/standins, CPU, one thread",
        "chunk": f"{HORIZON} actions, of which {EXECUTE} are executed; at most {LIMIT} control steps",
        "demonstrations": f"{DEMONSTRATIONS} of the expert in the calm world, noise {NOISE} on what is carried out",
        "stages": ", ".join(f"{name} {steps} steps of {BATCH}" for name, (steps, _) in BUDGETS.items()),
        "episodes": f"{episodes} an arm, world and seed",
        "worlds": "; ".join(f"{name}: {disturbances}" for name, disturbances in WORLDS.items()),
        "seeds": len(places),
    }
    says = {arm: ARMS[arm].says for arm in arms}
    return Results(logs, says, settings, COMPARED if COMPARED in arms else "")


def surprises(results: Any, arm: str) -> dict[str, dict[str, float]] | None:
    """RRR of an arm that replans, from one control step to the next: quantiles of the undisturbed steps, and of the
    step at which the moved object is first seen. None without that arm.
    """
    import numpy as np

    if arm not in results.episodes:
        return None
    calm, moved = [], []
    for world, seeds in results.episodes[arm].items():
        for episode in (episode for episodes in seeds.values() for episode in episodes):
            for row in episode["trace"]:
                if "rrr" not in row.get("notes", {}):
                    continue
                if world == "calm":
                    calm.append(row["notes"]["rrr"])
                elif world == "moved" and episode["moved_at"] is not None and row["step"] == episode["moved_at"] + 1:
                    moved.append(row["notes"]["rrr"])
    return {
        name: {str(q): round(float(np.quantile(found, q)), 2) for q in (0.01, 0.05, 0.5, 0.95, 0.99)}
        | {"n": len(found)}
        for name, found in {"calm": calm, "move": moved}.items()
        if found
    }


def films_of(place: Path, arms: Sequence[str], words: Words) -> dict[str, bytes]:
    """The first episode in the moved world in which the last arm wins and the compared one does not, else the first."""
    from runners.reach_world.evaluate import WORLDS, read_log
    from runners.reach_world.video import filmed

    use_tree(place.parent)
    last, base = arms[-1], COMPARED if COMPARED in arms else arms[0]
    pairs = zip(*(read_log(place / arm / "moved.jsonl") for arm in (last, base)), strict=True)
    told = [one["seed"] for one, other in pairs if one["success"] and not other["success"]]
    seed = told[0] if told else episodes_of(0, 1)[0]
    model = place.parent / MODEL
    policies = {arm: policy_of(arm, model, place / f"{ARMS[arm].trained}.pt") for arm in dict.fromkeys((base, last))}
    film = filmed(policies, seed, WORLDS["moved"], execute_steps=EXECUTE, limit=LIMIT)
    return {
        words("Episode {seed} in the world moved, at half speed: {arms}", seed=seed, arms=" | ".join(policies)): film
    }


def state_of(episodes: int) -> str:
    """A digest of everything that a kept result depends on."""
    files = [
        Path(__file__),
        Path(__file__).with_name("closed_loop_policy.py"),
        *sorted((ROOT / "runners" / "reach_world").glob("*.py")),
    ]
    files += sorted((ROOT / "overlays" / "starVLA").rglob("*.py"))
    files += sorted((ROOT / "tests" / "standins" / "starVLA").rglob("*.py"))
    parts = [str(episodes).encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="an arm, world and seed")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time")
    parser.add_argument("--keep", type=Path, help="folder for weights and logs, so that a stopped run can go on")
    parser.add_argument("--report", type=Path, help="HTML file with tables, plots and a film")
    add_language(parser)
    options = parser.parse_args()
    arms = list(dict.fromkeys(options.arms.split(",")))
    if unknown := [name for name in arms if name not in ARMS]:
        parser.error(f"no arm is called {unknown[0]}: one of {', '.join(ARMS)}")
    if min(options.seeds, options.episodes, options.jobs) < 1:
        parser.error("--seeds, --episodes and --jobs are 1 or more")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.keep.resolve() if options.keep else Path(scratch)) / state_of(options.episodes)
        if not (home / "graft").exists():
            shutil.rmtree(home / "graft.part", ignore_errors=True)
            StarVLAProject.make(home / "graft.part").root.rename(home / "graft")
        places = {seed: home / f"seed-{seed}" for seed in range(options.seeds)}
        with ProcessPoolExecutor(options.jobs) as pool:
            pointing = pool.submit(model_of, home).result()
            count = options.seeds
            jobs = pool.map(seed_run, places, [arms] * count, [options.episodes] * count, places.values())
            for _ in jobs:
                pass
        results = results_of(places, arms, options.episodes)
        if options.report:
            from runners.reach_world.report import page

            words = Words(options.lang)
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(page(results, films_of(places[0], arms, words), REMARKS, words), encoding="utf-8")
        told = {
            seed: {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(place.glob("*.json"))}
            for seed, place in places.items()
        }
    if not options.json:
        print("\n".join(lines_of(results)))
    figures = {"bench": "closed_loop", "seeds": options.seeds, "episodes": options.episodes, "arms": results.plain()}
    figures["rrr"] = surprises(results, "replanning")
    print(
        json.dumps(
            {
                **figures,
                "pointing": pointing,
                "training": told,
                "seconds": round(time.perf_counter() - began),
                "machine": machine(),
            }
        )
    )
    return 0


def lines_of(results: Any) -> list[str]:
    """The table for people."""

    def shown(mean: Any, scale: float = 1.0) -> str:
        if mean is None:
            return "-"
        return f"{mean.mean * scale:.1f}" + ("" if mean.half is None else f" ± {mean.half * scale:.1f}")

    names = ("arm", "world", "success %", "recovered %", "steps to recover", "wrong %", "control Hz")
    rows = [
        (
            *(arm, world, shown(results.mean(arm, world, "success"), 100)),
            shown(results.recovered(arm, world), 100),
            shown(results.mean(arm, world, "recovery_steps")),
            shown(results.mean(arm, world, "wrong"), 100),
            shown(results.mean(arm, world, "control_hz")),
        )
        for world in results.worlds
        for arm in results.arms
    ]
    return ["".join(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=True)) for row in (names, *rows)]


WIDTHS = (12, 8, 16, 16, 18, 14, 14)

if __name__ == "__main__":
    sys.exit(main())
