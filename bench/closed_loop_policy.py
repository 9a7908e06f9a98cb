"""The policies of bench/closed_loop.py: how they are configured, trained, and how they play in runners/reach_world.

The framework, its losses, guidance and replanning are the overlay's own, in the stand-in starVLA of tests/standins,
grafted with the real packs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HORIZON, EXECUTE, LIMIT = 16, 12, 24
DEMONSTRATIONS, NOISE = 500, 0.25
FUTURE, PAST = range(1, HORIZON + 1), range(1, EXECUTE + 1)
BATCH = 32
WIDTH, LAYERS, SLOTS, PATCH = 64, 3, 4, 4
BUDGETS = {
    "alignment": (200, 2e-3),
    "dynamics": (800, 2e-3),
    "imitation": (1200, 2e-3),
    "correction": (200, 5e-4),
}
"""Optimizer steps and learning rate of the method's own stages (`starVLA/sagr/stages.py`), which say what each freezes,
weighs and perturbs. The baseline has imitation alone, of as many steps as imitation and correction together.
"""
POINTING_SCENES, POINTING_STEPS, POINTING_RATE = 16000, 4000, 2e-3
STATE_SCALE = (5.0, 5.0, 5.0, 1.0)
"""The robot's positions are tenths of a metre; the networks want them near 1."""


def configuration(model: Path, trained: str, sagr: Mapping[str, Any], feedback: bool | None = None) -> Any:
    """The framework's configuration for one of the trained policies; `sagr` is what differs in `framework.sagr`,
    `feedback` whether it has feedback tokens, where that is not as its name says.
    """
    from omegaconf import OmegaConf

    feedback = trained == "feedback" if feedback is None else feedback
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
                    "repeated_diffusion_steps": 2,
                    "diffusion_model_cfg": {"attention_head_dim": 16, "dropout": 0.0},
                    "enable_causal_feedback_token": feedback,
                    "causal_feedback_gate": feedback,
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


def build(config: Any, weights: Mapping[str, Any] | None = None, begins: str = "") -> Any:
    """The framework with `weights`, which may lack the module named `begins`."""
    from starVLA.model.framework.base_framework import build_framework

    framework = build_framework(config)
    if weights is not None:
        own = framework.state_dict() if begins else {}
        own = {name: value for name, value in own.items() if name.startswith(f"{begins}.")}
        framework.load_state_dict(own | dict(weights))
    return framework


def scaled(example: dict[str, Any]) -> dict[str, Any]:
    """The example with its states at the scale of STATE_SCALE."""
    import numpy as np

    return example | {key: example[key] * np.float32(STATE_SCALE) for key in example if key.startswith("state")}


def minimise(
    loss_of: Callable[[Sequence[dict[str, Any]]], Any],
    weights: Sequence[Any],
    examples: Sequence[dict[str, Any]],
    steps: int,
    rate: float,
    seed: int,
) -> list[float]:
    """AdamW with a short warm-up and a cosine to nothing; returns the mean loss of every tenth of the steps."""
    import numpy as np
    import torch

    draw = np.random.default_rng([seed, 4])
    optimizer = torch.optim.AdamW(weights, rate, weight_decay=1e-3)
    losses: list[float] = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50, (1 + math.cos(math.pi * step / steps)) / 2)
        loss = loss_of([examples[index] for index in draw.integers(len(examples), size=BATCH)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
    part = max(1, steps // 10)
    return [round(float(np.mean(losses[at : at + part])), 4) for at in range(0, steps, part)]


def make_model(folder: Path) -> dict[str, Any]:
    """A vision-language model that has been taught to point, as those are that policies start from; for all seeds.

    It is made at random, with a tokenizer that knows the task's words, and learns where in the picture the named object
    is, from scenes that no policy is trained on or played in. Returns the losses and the error on scenes held out.
    """
    import numpy as np
    import torch
    from starVLA.model.modules.vlm import toy_vl

    from runners.reach_world.layout import COLOURS, SHAPES
    from runners.reach_world.record import still

    bytes_only = toy_vl.make_tokenizer

    def with_words() -> Any:
        tokenizer = bytes_only()
        tokenizer.add_tokens([*COLOURS, *SHAPES, "touch", "the"])
        return tokenizer

    toy_vl.make_tokenizer = with_words
    try:
        torch.manual_seed(0)
        toy_vl.make_checkpoint(folder, LAYERS, WIDTH)
    finally:
        toy_vl.make_tokenizer = bytes_only
    framework = build(configuration(folder, "baseline", {})).train()
    interface = framework.qwen_vl_interface
    scenes = [scene for seed in range(POINTING_SCENES) if (scene := still(900_000_000 + seed))]

    def centre(scene: dict[str, Any]) -> list[float]:
        rows, columns = np.nonzero(scene["named_mask"][0])
        height, width = scene["named_mask"][0].shape
        return [2 * columns.mean() / (width - 1) - 1, 2 * rows.mean() / (height - 1) - 1]

    def pointed(batch: Sequence[dict[str, Any]]) -> Any:
        layers, _ = framework._encode_vl_hidden_states([e["image"] for e in batch], [e["lang"] for e in batch])
        return read(layers[-1][:, -1].float())

    def loss(batch: Sequence[dict[str, Any]]) -> Any:
        return (pointed(batch) - torch.tensor([centre(scene) for scene in batch])).square().mean()

    read = torch.nn.Linear(WIDTH, 2)
    weights = [*interface.parameters(), *read.parameters()]
    losses = minimise(loss, weights, scenes[200:], POINTING_STEPS, POINTING_RATE, 0)
    with torch.no_grad():
        error = (pointed(scenes[:200]) - torch.tensor([centre(scene) for scene in scenes[:200]])).norm(dim=1).median()
    interface.model.save_pretrained(folder)
    pixels = scenes[0]["named_mask"][0].shape[0] / 2
    return {"losses": losses, "median_error_pixels": round(error.item() * pixels, 2)}


def train_policy(trained: str, seed: int, examples: Sequence[dict[str, Any]], model: Path, place: Path) -> None:
    """Goes through the stages and leaves the weights in `place`, and beside them the losses and the time."""
    import torch

    began, weights, losses = time.perf_counter(), None, {}
    for name, config, freeze, steps, rate in stages_of(trained, model):
        torch.manual_seed(seed)
        framework = build(config, weights, "causal_feedback").train()
        for path in freeze:
            framework.get_submodule(path).requires_grad_(False)
        open_ = [weight for weight in framework.parameters() if weight.requires_grad]
        losses[name] = minimise(
            lambda batch, framework=framework: framework(batch)["action_loss"], open_, examples, steps, rate, seed
        )
        weights = framework.state_dict()
    told = {"losses": losses, "training_seconds": round(time.perf_counter() - began)}
    place.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    part = place.with_suffix(".part")
    torch.save(weights, part)
    part.replace(place)


def stages_of(trained: str, model: Path) -> list[tuple[str, Any, Sequence[str], int, float]]:
    """Name, configuration, frozen modules, optimizer steps and learning rate of each stage of a policy.

    As the runner starvla-sagr-flow has them with `--grounding`; `ungrounded` is without it.
    """
    from starVLA.sagr.stages import LOSSES, STAGES

    if trained == "baseline":
        steps, rate = BUDGETS["imitation"]
        return [("imitation", configuration(model, trained, {}), (), steps + BUDGETS["correction"][0], rate)]
    made = []
    for stage in STAGES:
        losses = {name: stage.weights.get(name, 0.0) for name in LOSSES}
        # There is no attention to ground where tokens are pooled.
        losses["w_ground"] = 0.0 if trained in ("ungrounded", "pooled") else stage.ground
        sagr = {"losses": losses, "perturbation": stage.perturbation, "anchor": {"enabled": trained != "pooled"}}
        config = configuration(model, trained, sagr, trained == "feedback" and stage.feedback)
        made.append((stage.name, config, stage.freeze, *BUDGETS[stage.name]))
    return made


class FrameworkPolicy:
    """The framework as runners/reach_world sees it: the plan goes from one sampling to the next, and between two
    samplings what is seen is held against what the plan expected since the step before.
    """

    def __init__(self, framework: Any, replan: bool) -> None:
        from starVLA.sagr.course import Course
        from starVLA.sagr.replan import ReplanningController

        self.framework, self.notes = framework, {}
        settings = framework.sagr.replan
        controller = (
            ReplanningController(EXECUTE, settings.tau, settings.max_restarts, settings.floor) if replan else None
        )
        self.course = Course(getattr(framework, "world_predictor", None), controller)

    def begin(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        self.course.begin()

    def act(self, observation: Any, executed: Any) -> Any:
        from runners.reach_world.record import example_of

        example = scaled(example_of(observation))
        result = self.framework.predict_action([example], **self.course.given(executed))
        chunk = result["normalized_actions"][0]
        self.course.sampled(result.get("plan"), chunk)
        return chunk

    def interrupt(self, observation: Any, executed: Any) -> bool:
        if self.course.controller is None:
            return False
        from runners.reach_world.record import example_of

        tokens, state = self.framework.task_tokens([scaled(example_of(observation))])
        restart = self.course.restart(observation.step, tokens, state, executed)
        self.notes = dict(self.course.controller.log[-1])
        return restart
