"""A trained starVLA policy behind a pipe: one message in, one answer out, until the pipe is closed.

    python runners/libero_world/policy.py SETTINGS      in the environment of starVLA, with its checkout on PYTHONPATH

SETTINGS is JSON: `checkpoint` (a run's .pt or .safetensors), `replan`, `guidance` (what differs in
`framework.sagr.guidance`), `execute_steps`, `unnorm_key` and `state` (each may be null). Loading and
un-normalising are upstream's own: `from_pretrained`, and the `PolicyNormProcessor` of its policy server. That server
itself hands over actions alone, and keeps no plan from one call to the next.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from numpy.typing import NDArray

from runners.libero_world.messages import Closed, Observation, receive, send

IMAGE = 224
"""Pixels a side of the pictures that upstream's client hands over."""
STATE_DIM = 8
OPEN = 0.5
"""The data's gripper is 1 for open and 0 for closed, LIBERO's command -1 and 1."""


class LiberoPolicy:
    """The framework, its plan from one sampling to the next, and what of it was carried out.

    Raises ValueError for settings that do not fit the checkpoint.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import torch
        from deployment.model_server.policy_norm_processor import PolicyNormProcessor
        from starVLA.model.framework.base_framework import baseframework

        self.torch, path = torch, str(settings["checkpoint"])
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.framework = baseframework.from_pretrained(path).to(device).eval()
        config = self.framework.config
        self.horizon = int(config.framework.action_model.action_horizon)
        self.with_state = state_given(Path(path)) if settings["state"] is None else settings["state"]
        width = config.framework.action_model.state_dim
        if self.with_state and width != STATE_DIM:
            raise ValueError(f"the policy was trained on a state of {width} numbers, LIBERO's has {STATE_DIM}")
        self.norm = PolicyNormProcessor(path, unnorm_key=settings["unnorm_key"])
        sagr = getattr(self.framework, "sagr", None)
        self.active = sagr is not None and sagr.active
        if not self.active and (settings["guidance"] or settings["replan"]):
            raise ValueError(
                f"{path}: framework.sagr.geometry.backend is none; guidance and replanning need task tokens"
            )
        self.execute_steps = settings["execute_steps"] or (sagr.executed(self.horizon) if sagr else self.horizon // 2)
        if not 1 <= self.execute_steps < self.horizon:
            raise ValueError(f"execute_steps is {self.execute_steps}; wants 1 to {self.horizon - 1}")
        self.course = self._course(settings)
        self.carried: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.notes: dict[str, Any] = {}

    def _course(self, settings: Mapping[str, Any]) -> Any:
        """Sets the guidance that the arm has, and returns its course, with the controller of one that replans."""
        from starVLA.sagr.course import Course
        from starVLA.sagr.guidance import ResidualGuidance
        from starVLA.sagr.replan import ReplanningController

        if not self.active:
            return Course(None)
        sagr = self.framework.sagr
        guidance = dataclasses.replace(sagr.guidance, **settings["guidance"])
        self.framework.sagr = dataclasses.replace(sagr, guidance=guidance, execute_steps=self.execute_steps)
        self.framework.guidance = ResidualGuidance(self.framework.world_predictor, guidance)
        limits = (sagr.replan.tau, sagr.replan.max_restarts, sagr.replan.floor)
        controller = ReplanningController(self.execute_steps, *limits) if settings["replan"] else None
        return Course(self.framework.world_predictor, controller)

    def hello(self) -> dict[str, Any]:
        kept = {
            "horizon": self.horizon,
            "execute_steps": self.execute_steps,
            "replans": self.course.controller is not None,
        }
        return {**kept, "framework": type(self.framework).__name__, "with_state": self.with_state}

    def begin(self, seed: int) -> None:
        self.torch.manual_seed(seed)
        self.course.begin()

    def act(self, seen: Observation, executed: int) -> NDArray[np.float32]:
        """A chunk [H, 7] as LIBERO takes it."""
        result = self.framework.predict_action([self.example(seen)], **self.course.given(self.carried[:executed]))
        actions, self.carried = ready(np.asarray(result["normalized_actions"][0]), self.norm)
        self.course.sampled(result.get("plan"), self.carried)
        return actions

    def interrupt(self, seen: Observation, executed: int) -> bool:
        """Whether RRR, from the control step before to this one, clears the queue."""
        if self.course.controller is None:
            raise ValueError("this arm does not replan: nothing to ask")
        tokens, state = self.framework.task_tokens([self.example(seen)])
        restart = self.course.restart(seen.step, tokens, state, self.carried[:executed])
        self.notes = dict(self.course.controller.log[-1])
        return bool(restart)

    def example(self, seen: Observation) -> dict[str, Any]:
        """What the framework reads; without geometry just what upstream's client sends."""
        from PIL import Image

        size = (IMAGE, IMAGE)
        pictures = [
            Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR) for picture in seen.images.values()
        ]
        found: dict[str, Any] = {"image": pictures, "lang": seen.instruction}
        if self.with_state:
            found["state"] = seen.state[None].astype(np.float16)
        if self.active:
            for key in ("depth", "intrinsics", "camera_pose"):
                found[key] = [array.astype(np.float32) for array in getattr(seen, key).values()]
        return found


def state_given(checkpoint: Path) -> bool:
    """Whether training showed the robot's state. The run's config.yaml, from which upstream loads, has only what the
    framework read, and not that.

    Raises ValueError where the run's folder lacks config.full.yaml.
    """
    from omegaconf import OmegaConf

    whole = checkpoint.parents[1] / "config.full.yaml"
    if not whole.is_file():
        raise ValueError(
            f"{whole} is not there: say with --state whether the policy was trained with the robot's state"
        )
    # Absent is off, as in upstream's loader.
    return OmegaConf.load(whole).datasets.vla_data.get("include_state", False) not in ("False", False)


def ready(chunk: NDArray[np.float32], norm: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of a normalised chunk [H, 7]: the actions as LIBERO takes them, and those back in the chunk's own units.

    They differ from the chunk where the controller would clip, and in the gripper, which is open or closed and nothing
    between: the world answers to what was carried out. `norm` is upstream's PolicyNormProcessor.
    """
    data = np.clip(norm.unapply_actions(chunk), -1.0, 1.0).astype(np.float32)
    data[:, -1] = data[:, -1] > OPEN
    carried = chunk.astype(np.float32, copy=True)
    # Un-normalising goes through each number by itself and is a straight line in it: two points give its inverse.
    low, high = (norm.unapply_actions(np.full((1, chunk.shape[1]), end, np.float32))[0] for end in (-1.0, 1.0))
    for column in np.flatnonzero(high != low):
        carried[:, column] = 2 * (data[:, column] - low[column]) / (high[column] - low[column]) - 1
    actions = data.copy()
    actions[:, -1] = 1 - 2 * data[:, -1]
    return actions, carried


def answer(policy: LiberoPolicy, plain: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict, dict]:
    policy.notes = {}
    if plain["call"] == "begin":
        policy.begin(plain["seed"])
        return {}, {}
    seen = Observation.unpacked(plain, arrays)
    if plain["call"] == "act":
        chunk = policy.act(seen, plain["executed"])
        return {"notes": policy.notes}, {"chunk": chunk}
    return {"restart": policy.interrupt(seen, plain["executed"]), "notes": policy.notes}, {}


def serve(policy: LiberoPolicy, heard: BinaryIO, told: BinaryIO) -> None:
    """Answers until the pipe is closed. What the policy raises is an answer too, with its kind and its message."""
    send(told, policy.hello(), {})
    while True:
        try:
            plain, arrays = receive(heard)
        except Closed:
            return
        try:
            said, found = answer(policy, plain, arrays)
        except Exception as error:
            traceback.print_exc()
            said, found = {"error": f"{type(error).__name__}: {error}"}, {}
        send(told, said, found)


def main() -> None:
    # Upstream prints: its words go where errors go, and only messages go through the pipe.
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(LiberoPolicy(json.loads(sys.argv[1])), sys.stdin.buffer, told)


if __name__ == "__main__":
    main()
