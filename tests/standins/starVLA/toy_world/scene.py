"""The table: where things are in metres, what the camera sees of them, what an expert does.

The base's frame has x to the right, y up in the picture, z out of the table. The camera hangs 1 m above the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE, FOCAL, CENTRE, HEIGHT = 32, 32.0, 15.5, 1.0
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}
STEP, NEAR = 0.08, 0.05
INTRINSICS = np.array([[FOCAL, 0, CENTRE], [0, FOCAL, CENTRE], [0, 0, 1]], np.float32)
CAMERA_POSE = np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, HEIGHT], [0, 0, 0, 1]], np.float32)
"""From the camera's frame (z forward, y down) to the base's."""


@dataclass
class Scene:
    """``blocks`` by colour and ``gripper``: x, y in metres; ``grip`` 1 where it is shut."""

    blocks: dict[str, np.ndarray]
    gripper: np.ndarray
    grip: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scene:
        left, right = rng.uniform([-0.35, -0.3], [-0.08, 0.3]), rng.uniform([0.08, -0.3], [0.35, 0.3])
        sides = [left, right] if rng.integers(2) else [right, left]
        return cls(dict(zip(COLOURS, sides, strict=True)), rng.uniform(-0.35, 0.35, 2))

    @property
    def state(self) -> np.ndarray:
        """x, y, grip: float32 [3]."""
        return np.array([*self.gripper, self.grip], np.float32)

    def expert(self, colour: str) -> np.ndarray:
        """Metres along x and y, at most ``STEP`` each, and whether to shut: float32 [3]."""
        way = self.blocks[colour] - self.gripper
        return np.array([*np.clip(way, -STEP, STEP), float(np.abs(way).max() < NEAR)], np.float32)

    def step(self, action: np.ndarray) -> None:
        self.gripper = np.clip(self.gripper + np.clip(action[:2], -STEP, STEP), -0.4, 0.4)
        self.grip = float(action[2] > 0.5)

    def touches(self, colour: str) -> bool:
        return bool(np.abs(self.blocks[colour] - self.gripper).max() < NEAR)

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Picture uint8 [32, 32, 3] and depth float32 [32, 32] in metres."""
        picture = np.full((SIDE, SIDE, 3), 180, np.uint8)
        depth = np.full((SIDE, SIDE), HEIGHT, np.float32)
        things = [(place, COLOURS[name], 0.06, 0.1) for name, place in self.blocks.items()]
        things.append((self.gripper, (30, 30, 30) if self.grip else (250, 250, 250), 0.04, 0.2))
        for place, colour, half, height in things:
            scale, away = FOCAL / (HEIGHT - height), HEIGHT - height
            columns = CENTRE + scale * (place[0] + np.array([-half, half]))
            rows = CENTRE - scale * (place[1] + np.array([half, -half]))
            area = tuple(slice(max(0, round(low)), max(0, round(high) + 1)) for low, high in (rows, columns))
            picture[area], depth[area] = colour, away
        return picture, depth
