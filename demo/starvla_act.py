"""What a trained policy of SA-GR Flow looks at and does on one sample of its data, as JSON.

    PYTHONPATH=CHECKOUT:tests/starvla_real python demo/starvla_act.py WEIGHTS FACTS.json

It runs in the environment of starVLA; WEIGHTS is what upstream's trainer leaves. The plan holds the demonstrated
actions, since these moved the world to the next frame; in the disturbed frame picture and depth are shifted sideways by
a quarter of their width.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny_robot
import torch
from omegaconf import OmegaConf
from PIL import Image
from starVLA.dataloader.lerobot_datasets import get_vla_dataset
from starVLA.model.framework.base_framework import baseframework
from starVLA.sagr.anchor_map import draw, per_view
from starVLA.sagr.geometry.inputs import collect
from starVLA.sagr.replan import ReplanningController

SEEN = ("image", "state", "depth", "intrinsics", "camera_pose")
EXECUTED = 2
"""Actions between the two frames: fewer than are executed of a chunk, so that a decision is still to be taken."""
TRIES, SHOWN = 400, 320


def transition(data: Any) -> dict[str, Any]:
    """A sample whose next frame is EXECUTED actions away and shows another depth. Raises RuntimeError where none is."""
    for number in range(TRIES):
        sample = data[number]
        there = sample["valid_tk"] == 1.0 and sample["offset_tk"] == EXECUTED
        if there and not np.array_equal(sample["depth"][0], sample["depth_tk"][0]):
            return dict(sample)
    raise RuntimeError(f"none of {TRIES} samples has another depth {EXECUTED} actions later")


def frame(sample: dict[str, Any], suffix: str) -> dict[str, Any]:
    """What a robot would have seen; a lens and a camera that are given once stay."""
    found = {key: sample.get(f"{key}{suffix}", sample.get(key)) for key in SEEN}
    return {"lang": sample["lang"], **{key: value for key, value in found.items() if value is not None}}


def shifted(example: dict[str, Any]) -> dict[str, Any]:
    def roll(array: np.ndarray) -> np.ndarray:
        return np.roll(array, array.shape[1] // 4, axis=1)

    pictures = [Image.fromarray(roll(np.asarray(picture))) for picture in example["image"]]
    return {**example, "image": pictures, "depth": [roll(np.asarray(depth)) for depth in example["depth"]]}


def png(image: Image.Image) -> str:
    side = (SHOWN, round(SHOWN * image.height / image.width))
    buffer = io.BytesIO()
    image.resize(side, Image.Resampling.LANCZOS).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def attention(policy: Any, example: dict[str, Any], instruction: str) -> dict[str, Any]:
    """Where the anchor's slots look in the first view, drawn over it, for an instruction."""
    asked = [{**example, "lang": instruction}]
    with torch.no_grad():
        geometry = policy.geometry_encoder(collect(asked, "", policy.geometry_encoder.needs))
        found = policy.fusion_module(*policy._text(asked), geometry.tokens, geometry.mask, return_attention=True)
    first = per_view(found.attention[0], geometry.grid)[0]
    picture = example["image"][0].convert("RGB")
    return {
        "instruction": instruction,
        "grid": list(geometry.grid[0]),
        "largest": float(first.mean(0).max()),
        "uniform": 1.0 / first.shape[-1],
        "image": png(draw(first, picture, geometry.grid[0])),
    }


class Watched:
    """Guidance that keeps the norms of what it adds and of what it adds to."""

    def __init__(self, guidance: Any) -> None:
        self.guidance = guidance
        self.drift_norm: list[float] = []
        self.velocity_norm: list[float] = []

    def drift(self, actions: Any, velocity: Any, t: float, reference: Any) -> Any:
        found = self.guidance.drift(actions, velocity, t, reference)
        self.drift_norm.append(float(torch.linalg.vector_norm(found.b)))
        self.velocity_norm.append(float(torch.linalg.vector_norm(velocity.float())))
        return found


def sampled(policy: Any, seen: dict[str, Any], plan: Any, guided: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    switched = replace(policy.sagr, guidance=replace(policy.sagr.guidance, enabled=guided))
    kept, policy.sagr = policy.sagr, switched
    try:
        return dict(policy.predict_action([seen], plan=plan, executed=EXECUTED, return_debug_info=True))
    finally:
        policy.sagr = kept


def guidance(policy: Any, plan: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """One chunk with and without the drift, from the same noise."""
    policy.guidance = watched = Watched(policy.guidance)
    chunks = {name: sampled(policy, seen, plan, name == "guided") for name in ("unguided", "guided")}
    policy.guidance = watched.guidance
    tokens, state = policy.task_tokens([seen])
    reference = plan.reference(policy.world_predictor, tokens, state, EXECUTED)

    def energy(actions: np.ndarray) -> float:
        with torch.no_grad():
            expected = policy.world_predictor(tokens, state, torch.from_numpy(actions), reference.valid)
        return float((reference.target - expected).double().square().mean())

    actions = {name: chunk["normalized_actions"] for name, chunk in chunks.items()}
    return {
        "energy": {name: energy(chunk) for name, chunk in actions.items()},
        "moved": float(np.abs(actions["guided"] - actions["unguided"]).max()),
        "drift_norm": watched.drift_norm,
        "velocity_norm": watched.velocity_norm,
        "debug": chunks["guided"]["debug"],
    }


def decision(policy: Any, plan: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """What the replanning controller decides after EXECUTED actions of the plan, as it logs it."""
    settings = policy.sagr.replan
    steps = policy.sagr.executed(policy.action_horizon)
    controller = ReplanningController(steps, settings.tau, settings.max_restarts, settings.floor)
    controller.load(plan.actions[0])
    for _ in range(EXECUTED):
        controller.next()
    tokens, _ = policy.task_tokens([seen])
    controller.check(EXECUTED, plan.compare(policy.world_predictor, tokens, EXECUTED))
    return controller.log[-1]


def main() -> None:
    weights, target = sys.argv[1:]
    settings = OmegaConf.load(Path(weights).parents[1] / "config.full.yaml")
    tiny_robot.register()
    data = get_vla_dataset(settings.datasets.vla_data)
    policy = baseframework.from_pretrained(weights).eval()
    sample = transition(data)
    now, after = frame(sample, ""), frame(sample, "_tk")
    torch.manual_seed(0)
    first = policy.predict_action([now])["plan"]
    horizon = first.actions.shape[1]
    shown = torch.from_numpy(np.asarray(sample["action"], np.float32)[-horizon:])[None]
    plan = replace(first, actions=shown.to(first.actions))
    others = {str(data[number]["lang"]) for number in range(20)}
    instructions = [sample["lang"], *sorted(others - {sample["lang"]})[:1]]
    facts = {
        "seen": png(now["image"][0].convert("RGB")),
        "attention": [attention(policy, now, instruction) for instruction in instructions],
        "executed": EXECUTED,
        "eta": policy.sagr.guidance.eta,
        "step": policy.sagr.guidance.step,
        "guidance": guidance(policy, plan, shifted(after)),
        "decisions": {"as it came": decision(policy, plan, after), "shifted": decision(policy, plan, shifted(after))},
    }
    Path(target).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
