"""One episode as a controller lives it: observe, act for a tenth of a second, observe again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.reach_world.camera import FRONT, Camera, Frame, look
from runners.reach_world.layout import CALM, Disturbances, layout_of
from runners.reach_world.scene import HEIGHT, LIMIT, TIMESTEP, model_of

ACTION_DIM, STATE_DIM = 3, 4
STRIDE = 0.03
"""What an action of 1 asks the tip to move along its axis in one control step, in metres."""
CONTROL_HZ = 10
SUBSTEPS = round(1 / CONTROL_HZ / TIMESTEP)
HOLD = 3
"""The named object is touched when the tip or finger was in contact with it in this many control steps in a row."""
FULL_TOUCH = 5.0
"""The contact force in newtons that the touch reading saturates at."""

RUNNING, TOUCHED, WRONG, LATE = "running", "touched", "wrong object", "out of time"
"""How an episode stands: only TOUCHED is a success."""


@dataclass(frozen=True)
class Observation:
    """What the controller may know at a control step. `state` float32 [4]: the tip's position as the robot believes it
    (x, y, z in metres) and the touch reading in [0, 1]. `camera_pose` of each camera: [4, 4] camera to gripper, the
    gripper's frame having its origin at that position and the world's axes.
    """

    step: int
    instruction: str
    state: NDArray[np.float32]
    frames: Mapping[str, Frame]
    camera_pose: Mapping[str, NDArray[np.float64]]

    @property
    def touching(self) -> bool:
        """Whether the tool touched anything, the table included, during the last control step."""
        return bool(self.state[3] > 0)


class ReachWorld:
    """The episode of a seed; the same seed and the same actions give the same states, bit for bit.

    Raises ValueError for what `layout_of` does not take, two cameras of one name, no camera, or limit < 1.
    """

    def __init__(
        self,
        seed: int,
        disturbances: Disturbances = CALM,
        *,
        cameras: Sequence[Camera] = (FRONT,),
        limit: int = 30,
        things: int = 4,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit={limit}: an episode wants at least one control step")
        if not cameras or len({camera.name for camera in cameras}) < len(cameras):
            names = ", ".join(camera.name for camera in cameras) or "none"
            raise ValueError(f"cameras: {names}; wants at least one, and different names")
        self.layout = layout_of(seed, disturbances, things)
        self.disturbances, self.cameras, self.limit = disturbances, tuple(cameras), limit
        self.model = model_of(self.layout)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        mujoco.mj_forward(self.model, self.data)
        self.step_count, self.outcome = 0, RUNNING
        self.moved_at: int | None = None
        self._held, self._touch = 0, 0.0
        self._slides = [int(self.model.joint(name).qposadr[0]) for name in "xyz"]
        # The tool is the last body of the scene, so that its geoms are those from here on.
        self._tool = int(self.model.body("tool").geomadr[0])
        self._things = {self.model.geom(thing.name).id: index for index, thing in enumerate(self.layout.things)}

    @property
    def done(self) -> bool:
        return self.outcome != RUNNING

    @property
    def success(self) -> bool:
        return self.outcome == TOUCHED

    def gripper(self) -> NDArray[np.float64]:
        """[3], where the robot believes the tip to be."""
        return self.data.qpos[self._slides].copy()

    def tip(self) -> NDArray[np.float64]:
        """[3], where the tip's centre is."""
        return self.data.geom("tip").xpos.copy()

    def target(self) -> NDArray[np.float64]:
        """[3], where the named object's centre is."""
        return self.data.body(self.layout.target.name).xpos.copy()

    def observe(self) -> Observation:
        frames = {camera.name: look(self.model, self.data, camera) for camera in self.cameras}
        believed = self.gripper()
        poses = {}
        for name, frame in frames.items():
            poses[name] = frame.pose.copy()
            poses[name][:3, 3] -= believed
        state = np.array([*believed, self._touch], dtype=np.float32)
        return Observation(self.step_count, self.layout.instruction, state, frames, poses)

    def step(self, action: ArrayLike) -> str:
        """Moves the tip by `action` [3] times STRIDE for one control step; what lies outside [-1, 1] is clipped, as a
        robot's driver does. Returns how the episode stands.

        Raises ValueError for another shape, what is not finite, or an episode that is over.
        """
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != (ACTION_DIM,) or not np.isfinite(wanted).all():
            raise ValueError(f"step {self.step_count}: an action is {ACTION_DIM} finite numbers, not {action!r}")
        if self.done:
            raise ValueError(f"the episode ended at step {self.step_count} ({self.outcome}): make a new ReachWorld")
        if self.step_count == self.disturbances.move_step:
            self._move_target()
        goal = self.gripper() + np.clip(wanted, -1.0, 1.0) * STRIDE
        self.data.ctrl[:] = np.clip(goal, (-LIMIT, -LIMIT, HEIGHT[0]), (LIMIT, LIMIT, HEIGHT[1]))
        touched: dict[int, float] = {}
        for _ in range(SUBSTEPS):
            mujoco.mj_step(self.model, self.data)
            self._feel(touched)
        # The observation shows the state after the last substep, not the one before it.
        mujoco.mj_forward(self.model, self.data)
        self.step_count += 1
        self._judge(touched)
        return self.outcome

    def _move_target(self) -> None:
        joint = self.model.joint(self.layout.target.name)
        place, speed = int(joint.qposadr[0]), int(joint.dofadr[0])
        self.moved_at = self.step_count
        self.data.qpos[place : place + 2] = self.layout.moved_to
        self.data.qvel[speed : speed + 6] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def _feel(self, touched: dict[int, float]) -> None:
        """Adds to `touched` the greatest normal force in newtons by which each geom is in contact with the tool."""
        pairs = self.data.contact.geom
        ours = pairs >= self._tool
        force = np.zeros(6)
        for number in np.flatnonzero(ours[:, 0] != ours[:, 1]):
            other = int(pairs[number][~ours[number]][0])
            mujoco.mj_contactForce(self.model, self.data, int(number), force)
            touched[other] = max(touched.get(other, 0.0), float(force[0]))

    def _judge(self, touched: Mapping[int, float]) -> None:
        self._touch = min(max(touched.values(), default=0.0) / FULL_TOUCH, 1.0)
        things = {self._things[geom] for geom in touched if geom in self._things}
        self._held = self._held + 1 if self.layout.named in things else 0
        if things - {self.layout.named}:
            self.outcome = WRONG
        elif self._held >= HOLD:
            self.outcome = TOUCHED
        elif self.step_count >= self.limit:
            self.outcome = LATE

    def facts(self) -> dict[str, Any]:
        """What an episode's log says of it: plain numbers and words."""
        return {
            "seed": self.layout.seed,
            "instruction": self.layout.instruction,
            "outcome": self.outcome,
            "success": self.success,
            "steps": self.step_count,
            "moved_at": self.moved_at,
            "distance": round(float(np.linalg.norm(self.tip() - self.target())), 4),
        }
