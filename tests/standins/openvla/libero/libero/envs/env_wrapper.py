"""A table that is looked at and acted on once: the episode is done when the right action is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from toy_world.tasks import Sample, downstream_scene, is_right


class OffScreenRenderEnv:
    """As LIBERO's: pictures come rotated by 180 degrees, the gripper is -1 open and +1 shut."""

    def __init__(self, bddl_file_name: str, camera_heights: int = 128, camera_widths: int = 128, **_: Any) -> None:
        self.task = int(Path(bddl_file_name).stem)
        self.size = (camera_heights, camera_widths)
        self.scene: Sample | None = None

    def seed(self, seed: int) -> None:
        self._begin(seed)

    def reset(self) -> dict[str, np.ndarray]:
        return self._begin(0)

    def set_init_state(self, init_state: np.ndarray) -> dict[str, np.ndarray]:
        return self._begin(int(init_state[0]))

    def step(self, action: list[float]) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        if self.scene is None:
            raise RuntimeError("reset the environment first")
        if len(action) != 7:
            raise ValueError(f"an action has seven numbers, not {len(action)}")
        asked = np.array([*action[:6], (1.0 - action[6]) / 2.0])
        done = bool(is_right(asked, self.scene.action))
        return self._observation(), float(done), done, {}

    def close(self) -> None:
        self.scene = None

    def _begin(self, seed: int) -> dict[str, np.ndarray]:
        self.scene = downstream_scene(self.task, np.random.default_rng(seed))
        return self._observation()

    def _observation(self) -> dict[str, np.ndarray]:
        assert self.scene is not None
        factors = [want // have for want, have in zip(self.size, self.scene.image.shape, strict=False)]
        image = self.scene.image.repeat(factors[0], axis=0).repeat(factors[1], axis=1)
        return {
            "agentview_image": image[::-1, ::-1],
            "robot0_eef_pos": np.zeros(3),
            "robot0_eef_quat": np.array([0.0, 0.0, 0.0, 1.0]),
            "robot0_gripper_qpos": np.zeros(2),
        }
