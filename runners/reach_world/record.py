"""Demonstrations in memory, and the `examples` that a starVLA framework trains on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runners.reach_world.camera import FRONT, Camera
from runners.reach_world.expert import expert_action
from runners.reach_world.layout import CALM, Disturbances
from runners.reach_world.world import ACTION_DIM, Observation, ReachWorld


@dataclass(frozen=True)
class Demonstration:
    """One episode: `observations[i]` is what was seen before `actions[i]`, [steps, 3] in [-1, 1], the expert's wish.
    `named` is the number of the geom that the instruction names.
    """

    seed: int
    outcome: str
    observations: Sequence[Observation]
    actions: NDArray[np.float32]
    named: int


def record(
    seeds: Iterable[int],
    disturbances: Disturbances = CALM,
    *,
    cameras: Sequence[Camera] = (FRONT,),
    noise: float = 0.0,
    limit: int = 40,
) -> list[Demonstration]:
    """The expert's episodes, one a seed.

    `noise`: standard deviation of what is added to the action that is carried out, while the expert's own is recorded
    (DART, Laskey et al. 2017), so that states off the expert's path are shown with their remedy. An episode that the
    expert loses is kept out: what it shows is no demonstration. Raises ValueError for negative noise, and when every
    episode was lost.
    """
    if noise < 0:
        raise ValueError(f"noise={noise}: a standard deviation is 0 or more")
    tried = [_one(seed, disturbances, cameras, noise, limit) for seed in seeds]
    kept = [demonstration for demonstration in tried if demonstration.outcome == "touched"]
    if not kept:
        raise ValueError(f"none of {len(tried)} episodes was a success: nothing to learn from (limit={limit})")
    return kept


def _one(seed: int, disturbances: Disturbances, cameras: Sequence[Camera], noise: float, limit: int) -> Demonstration:
    world = ReachWorld(seed, disturbances, cameras=cameras, limit=limit)
    slips = np.random.default_rng([seed, 2])
    observations, actions = [], []
    while not world.done:
        observations.append(world.observe())
        actions.append(expert_action(world))
        world.step(actions[-1] + slips.normal(0.0, noise, ACTION_DIM))
    named = int(world.model.geom(world.layout.target.name).id)
    return Demonstration(seed, world.outcome, observations, np.stack(actions), named)


def example_of(observation: Observation, suffix: str = "") -> dict[str, Any]:
    """What a controller hands to the framework, one entry a camera: `image` PIL, `depth` float32 [h, w] metres,
    `intrinsics` [3, 3], `camera_pose` [4, 4] camera to gripper; `state` [1, 4]; `lang`. `suffix` goes on every key but
    `lang`.
    """
    frames = observation.frames
    found = {
        "image": [Image.fromarray(frame.rgb) for frame in frames.values()],
        "depth": [frame.depth for frame in frames.values()],
        "intrinsics": [frame.intrinsics.astype(np.float32) for frame in frames.values()],
        "camera_pose": [observation.camera_pose[name].astype(np.float32) for name in frames],
        "state": observation.state[None, :],
    }
    return {**{key + suffix: value for key, value in found.items()}, "lang": observation.instruction}


def still(seed: int, cameras: Sequence[Camera] = (FRONT,)) -> dict[str, Any]:
    """What is seen at the start of an episode: `image`, `lang` and `named_mask` as in `examples_of`; empty where the
    named object is out of every camera's sight.
    """
    world = ReachWorld(seed, cameras=cameras)
    seen = world.observe()
    named = int(world.model.geom(world.layout.target.name).id)
    masks = [frame.geoms == named for frame in seen.frames.values()]
    if not all(mask.any() for mask in masks):
        return {}
    return {"image": example_of(seen)["image"], "lang": seen.instruction, "named_mask": masks}


def examples_of(
    demonstrations: Iterable[Demonstration], horizon: int, future: Sequence[int], past: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """One example for every control step, with the keys that starVLA's loader gives under `sagr.data.next_frame`.

    Beside `example_of` the observation: `named_mask`, one [h, w] bool a camera, where the named object is seen;
    `action` float32 [horizon, 3], zeros after the episode's end, as upstream pads differences; `offset_tk`, drawn from
    `future`; `example_of` the observation that many steps later under `_tk`, the episode's last where it ended before,
    and then `valid_tk` 0.0, else 1.0; `contact` 1.0 where the tool touches something there. With `past` the same for
    the observation `offset_tp` steps before under `_tp`, and `action_tp`, the chunk that began there.

    Raises ValueError for a horizon below 1, and offsets outside 1 to the horizon.
    """
    if not future or not all(1 <= offset <= horizon for offset in (*future, *past)):
        raise ValueError(f"horizon={horizon}, future={future}, past={past}: offsets lie in 1 to the horizon")
    found = []
    for demonstration in demonstrations:
        for now in range(len(demonstration.actions)):
            draw = np.random.default_rng([demonstration.seed, now, 3])
            steps = {"_tk": now + int(draw.choice(future))}
            if past:
                steps["_tp"] = now - int(draw.choice(past))
            example: dict[str, Any] = {"action": _chunk(demonstration, now, horizon)}
            for suffix, step in steps.items():
                there = min(max(step, 0), len(demonstration.actions) - 1)
                example |= example_of(demonstration.observations[there], suffix)
                example |= {f"offset{suffix}": abs(step - now), f"valid{suffix}": float(there == step)}
                if suffix == "_tk":
                    example["contact"] = float(demonstration.observations[there].touching)
                else:
                    example[f"action{suffix}"] = _chunk(demonstration, there, horizon)
            seen = demonstration.observations[now]
            example["named_mask"] = [frame.geoms == demonstration.named for frame in seen.frames.values()]
            found.append(example | example_of(seen))
    return found


def _chunk(demonstration: Demonstration, now: int, horizon: int) -> NDArray[np.float32]:
    known = demonstration.actions[now : now + horizon]
    return np.concatenate([known, np.zeros((horizon - len(known), ACTION_DIM), np.float32)])
