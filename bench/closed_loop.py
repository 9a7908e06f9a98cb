"""What each part of SA-GR Flow is worth in the closed loop, when the named object is moved in the middle of a chunk.

    .venvs/LLaMA-Factory/bin/python bench/closed_loop.py [--json] [--seeds 5] [--keep DIR] [--report FILE]

Runs the real framework on the stand-in starVLA of tests/standins, grafted with the real packs, in the world of
runners/reach_world, on a CPU. For each seed the expert's demonstrations are recorded anew and three policies are
trained on them: the baseline (QwenPI: pictures and state), one with the anchor in exact depth, and one that has
feedback tokens too. Guidance and replanning need no training of their own. Every arm then plays the same episodes in
three worlds: nothing goes wrong, the named object is moved, the tip is off. The last line is one JSON object.

In progress: its training settings are still being looked for, and no figure is quoted from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
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
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from measure import machine  # noqa: E402

from tests.standins.starvla_project import StarVLAProject  # noqa: E402

HORIZON, EXECUTE, LIMIT = 8, 4, 24
DEMONSTRATIONS, NOISE = 500, 0.25
FUTURE, PAST = range(1, HORIZON + 1), range(1, EXECUTE + 1)
BATCH, EPISODES = 32, 50
WIDTH, LAYERS, SLOTS, PATCH = 64, 3, 4, 4
STAGES: dict[str, tuple[int, float, dict[str, Any]]] = {
    "imitation": (1200, 2e-3, {"losses": {"w_fm": 1.0, "w_dyn": 0.0, "w_geo": 0.0, "w_reg": 0.0}}),
    "dynamics": (600, 2e-3, {"losses": {"w_fm": 0.0, "w_dyn": 1.0, "w_geo": 0.0, "w_reg": 0.0}}),
    "correction": (
        300,
        5e-4,
        {"losses": {"w_fm": 1.0, "w_dyn": 0.2, "w_geo": 0.1, "w_reg": 1e-3}, "perturbation": 0.05},
    ),
}
"""Optimizer steps, learning rate, and what of the framework's configuration makes the stage. Imitation comes before
dynamics here: nothing is pretrained, so that only imitation gives the task tokens a meaning to predict.
"""
STATE_SCALE = (5.0, 5.0, 5.0, 1.0)
"""The robot's positions are tenths of a metre; the networks want them near 1."""


@dataclass(frozen=True)
class Arm:
    """`trained`: which weights it plays; `sagr`: what differs from their configuration; `replan`: whether it may
    clear its queue.
    """

    says: str
    trained: str
    sagr: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replan: bool = False


GUIDED = {"guidance": {"enabled": True}}
ARMS = {
    "baseline": Arm("flow matching on pictures and state (QwenPI)", "baseline"),
    "anchor": Arm("task tokens anchored in depth geometry", "anchor"),
    "guidance": Arm("and residual guidance", "anchor", GUIDED),
    "replanning": Arm("and the queue is cleared above tau", "anchor", GUIDED, True),
    "feedback": Arm("and feedback tokens", "feedback", GUIDED, True),
}
REMARKS = (
    "The framework, the losses and the guidance are the overlay's own; starVLA around them is the stand-in of "
    "tests/standins, whose vision-language model is random at the start and trains along.",
    "What a disturbance costs is counted for the arm `anchor`: it is the first that has a success to lose.",
)
COMPARED = "anchor"
"""What a disturbance costs is counted for this arm: the baseline hardly has a success to lose."""


def configuration(model: Path, trained: str, sagr: Mapping[str, Any]) -> Any:
    """The framework's configuration for one of the trained policies; `sagr` is what differs in `framework.sagr`."""
    from omegaconf import OmegaConf

    geometry = {"backend": "none" if trained == "baseline" else "depth", "patch": PATCH, "fourier": 0}
    return OmegaConf.create(
        {
            "framework": {
                "name": "MapAnythingLlava3DPI",
                "qwenvl": {"base_vlm": str(model), "attn_implementation": "sdpa"},
                "action_model": {
                    "action_dim": 3,
                    "state_dim": 4,
                    "action_horizon": HORIZON,
                    "max_seq_len": 64,
                    "num_target_vision_tokens": 4,
                    "diffusion_model_cfg": {"attention_head_dim": 16, "dropout": 0.0},
                    "enable_causal_feedback_token": trained == "feedback",
                    "causal_feedback_gate": trained == "feedback",
                },
                "sagr": OmegaConf.merge(
                    {
                        "dim": WIDTH,
                        "geometry": geometry,
                        "anchor": {"slots": SLOTS, "heads": 4},
                        "world": {"layers": 2, "hidden": WIDTH, "heads": 4},
                        "execute_steps": EXECUTE,
                        "control_hz": 10.0,
                    },
                    dict(sagr),
                ),
            },
            "datasets": {"vla_data": {}},
        }
    )


def make_model(folder: Path, seed: int) -> Path:
    """A random vision-language model whose tokenizer knows the task's words, as a pretrained one's would."""
    import torch
    from starVLA.model.modules.vlm import toy_vl

    from runners.reach_world.layout import COLOURS, SHAPES

    bytes_only = toy_vl.make_tokenizer

    def with_words() -> Any:
        tokenizer = bytes_only()
        tokenizer.add_tokens([*COLOURS, *SHAPES, "touch", "the"])
        return tokenizer

    toy_vl.make_tokenizer = with_words
    try:
        torch.manual_seed(seed)
        return toy_vl.make_checkpoint(folder, LAYERS, WIDTH)
    finally:
        toy_vl.make_tokenizer = bytes_only


def build(config: Any, weights: Mapping[str, Any] | None = None) -> Any:
    from starVLA.model.framework.base_framework import build_framework

    framework = build_framework(config)
    if weights is not None:
        framework.load_state_dict(weights)
    return framework


def scaled(example: dict[str, Any]) -> dict[str, Any]:
    """The example with its states at the scale of STATE_SCALE."""
    import numpy as np

    return example | {key: example[key] * np.float32(STATE_SCALE) for key in example if key.startswith("state")}


def train(framework: Any, examples: Sequence[dict[str, Any]], steps: int, rate: float, seed: int) -> list[float]:
    """AdamW with a short warm-up and a cosine to nothing; returns the mean loss of every tenth of the steps."""
    import numpy as np
    import torch

    draw = np.random.default_rng([seed, 4])
    torch.manual_seed(seed)
    framework.train()
    optimizer = torch.optim.AdamW(framework.parameters(), rate, weight_decay=1e-3)
    losses: list[float] = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50, (1 + math.cos(math.pi * step / steps)) / 2)
        batch = [examples[index] for index in draw.integers(len(examples), size=BATCH)]
        loss = framework(batch)["action_loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(framework.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    framework.eval()
    part = max(1, steps // 10)
    return [round(float(np.mean(losses[at : at + part])), 4) for at in range(0, steps, part)]


class FrameworkPolicy:
    """The framework as runners/reach_world sees it: the plan goes from one sampling to the next."""

    def __init__(self, framework: Any, replan: bool) -> None:
        from starVLA.sagr.replan import ReplanningController

        self.framework, self.notes = framework, {}
        settings = framework.sagr.replan
        self.controller = (
            ReplanningController(EXECUTE, settings.tau, settings.max_restarts, settings.floor) if replan else None
        )
        self.plan: Any = None

    def begin(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        self.plan = None
        if self.controller is not None:
            self.controller.reset()

    def act(self, observation: Any, executed: Any) -> Any:
        from runners.reach_world.record import example_of

        given: dict[str, Any] = {}
        if self.plan is not None:
            given = {"plan": self._with(executed), "executed": len(executed)}
        result = self.framework.predict_action([scaled(example_of(observation))], **given)
        self.plan = result.get("plan")
        chunk = result["normalized_actions"][0]
        if self.controller is not None:
            self._drop(0)
            self.controller.load(chunk)
        return chunk

    def interrupt(self, observation: Any, executed: Any) -> bool:
        if self.controller is None:
            return False
        from runners.reach_world.record import example_of

        tokens, _ = self.framework.task_tokens([scaled(example_of(observation))])
        residual = self._with(executed).compare(self.framework.world_predictor, tokens, len(executed))
        self._drop(EXECUTE - len(executed))
        decision = self.controller.check(observation.step, residual)
        self.notes = dict(self.controller.log[-1])
        return decision == "restart"

    def _with(self, executed: Any) -> Any:
        """The plan with the actions as they were carried out."""
        import torch

        actions = self.plan.actions.clone()
        actions[0, : len(executed)] = torch.from_numpy(executed)
        return dataclasses.replace(self.plan, actions=actions)

    def _drop(self, left: int) -> None:
        """Takes actions from the controller's queue until `left` are in it: the evaluator carries them out."""
        while not self.controller.empty and len(self.controller._queue) > left:
            self.controller.next()


def policy_of(name: str, model: Path, weights: Path) -> FrameworkPolicy:
    """An arm ready to play."""
    import torch

    arm = ARMS[name]
    loaded = torch.load(weights, weights_only=True)
    return FrameworkPolicy(build(configuration(model, arm.trained, arm.sagr), loaded).eval(), arm.replan)


def train_policy(trained: str, seed: int, examples: Sequence[dict[str, Any]], model: Path, place: Path) -> None:
    """Goes through STAGES and leaves the weights in `place`, and beside them the losses and the time."""
    import torch

    began, weights, losses = time.perf_counter(), None, {}
    for stage, (steps, rate, sagr) in STAGES.items():
        if trained == "baseline" and stage != "imitation":
            continue
        torch.manual_seed(seed)
        framework = build(configuration(model, trained, sagr), weights)
        losses[stage] = train(framework, examples, steps, rate, seed)
        weights = framework.state_dict()
    told = {"losses": losses, "training_seconds": round(time.perf_counter() - began)}
    place.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    part = place.with_suffix(".part")
    torch.save(weights, part)
    part.replace(place)


def seed_run(seed: int, arms: Sequence[str], episodes: int, place: Path) -> None:
    """One seed: the policies that the arms need, and every arm's episodes, each a file below `place`; what lies there
    already is kept.
    """
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(place.parent / "graft" / "project" / "upstreams" / "starVLA"))
    from runners.reach_world.evaluate import WORLDS, evaluate
    from runners.reach_world.record import examples_of, record

    place.mkdir(parents=True, exist_ok=True)
    model = place / "Qwen2.5-VL-toy"
    if not model.exists():
        make_model(place / "Qwen2.5-VL-toy.part", seed).rename(model)
    wanted = [name for name in dict.fromkeys(ARMS[arm].trained for arm in arms) if not (place / f"{name}.pt").exists()]
    if wanted:
        # Far from the seeds of the episodes that are played.
        first = 1_000_000 * (seed + 1)
        demonstrations = record(range(first, first + DEMONSTRATIONS), noise=NOISE)
        examples = [scaled(example) for example in examples_of(demonstrations, HORIZON, FUTURE, PAST)]
        for trained in wanted:
            train_policy(trained, seed, examples, model, place / f"{trained}.pt")
    for arm in arms:
        for world, disturbances in WORLDS.items():
            log = place / arm / f"{world}.jsonl"
            if not log.exists():
                policy = policy_of(arm, model, place / f"{ARMS[arm].trained}.pt")
                evaluate(policy, range(episodes), disturbances, log, execute_steps=EXECUTE, limit=LIMIT)


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
        "stages": ", ".join(f"{name} {steps} steps of {BATCH}" for name, (steps, _, _) in STAGES.items()),
        "episodes": f"{episodes} an arm, world and seed",
        "worlds": "; ".join(f"{name}: {disturbances}" for name, disturbances in WORLDS.items()),
        "seeds": len(places),
    }
    says = {arm: ARMS[arm].says for arm in arms}
    return Results(logs, says, settings, COMPARED if COMPARED in arms else "")


def films_of(place: Path, arms: Sequence[str]) -> dict[str, bytes]:
    """The first episode in the moved world in which the last arm wins and the compared one does not, else the first."""
    from runners.reach_world.evaluate import WORLDS, read_log
    from runners.reach_world.video import filmed

    sys.path.insert(0, str(place.parent / "graft" / "project" / "upstreams" / "starVLA"))
    last, base = arms[-1], COMPARED if COMPARED in arms else arms[0]
    pairs = zip(*(read_log(place / arm / "moved.jsonl") for arm in (last, base)), strict=True)
    told = [one["seed"] for one, other in pairs if one["success"] and not other["success"]]
    seed = told[0] if told else 0
    model = place / "Qwen2.5-VL-toy"
    policies = {arm: policy_of(arm, model, place / f"{ARMS[arm].trained}.pt") for arm in dict.fromkeys((base, last))}
    film = filmed(policies, seed, WORLDS["moved"], execute_steps=EXECUTE, limit=LIMIT)
    return {f"Episode {seed} in the world moved, at half speed: {' and '.join(policies)}": film}


def state_of(episodes: int) -> str:
    """A digest of everything that a kept result depends on."""
    files = [Path(__file__), *sorted((ROOT / "runners" / "reach_world").glob("*.py"))]
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
            count = options.seeds
            jobs = pool.map(seed_run, places, [arms] * count, [options.episodes] * count, places.values())
            for _ in jobs:
                pass
        results = results_of(places, arms, options.episodes)
        if options.report:
            from runners.reach_world.report import page

            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(page(results, films_of(places[0], arms), REMARKS), encoding="utf-8")
        told = {
            seed: {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(place.glob("*.json"))}
            for seed, place in places.items()
        }
    if not options.json:
        print("\n".join(lines_of(results)))
    figures = {"bench": "closed_loop", "seeds": options.seeds, "episodes": options.episodes, "arms": results.plain()}
    print(
        json.dumps({**figures, "training": told, "seconds": round(time.perf_counter() - began), "machine": machine()})
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
