"""A pinhole camera by ray casting: exact depth and shaded colour without OpenGL.

Camera frames are those of computer vision: x to the right, y down, z forward; a pixel's centre has whole coordinates,
so that x = (u - cx) z / fx holds with u the column's index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BACKGROUND = (26, 28, 33)
AMBIENT = 0.45
LIGHT = np.array([0.35, -0.25, 0.9]) / math.sqrt(0.35**2 + 0.25**2 + 0.9**2)
"""Direction towards the light, in the world."""


@dataclass(frozen=True)
class Camera:
    """Where a camera stands: `eye` looks at `at`, in the world (`mounted` None) or in the frame of the body `mounted`.

    `width`, `height` in pixels, `fov` the vertical field of view in degrees. Raises ValueError for a camera that sees
    nothing, or straight along the z axis, which leaves its roll open.
    """

    name: str
    eye: tuple[float, float, float]
    at: tuple[float, float, float]
    width: int = 48
    height: int = 48
    fov: float = 40.0
    mounted: str | None = None

    def __post_init__(self) -> None:
        if self.width < 2 or self.height < 2 or not 1 <= self.fov <= 150:
            raise ValueError(
                f"camera {self.name}: {self.width} x {self.height} pixels at {self.fov} degrees; wants at least 2 x 2 "
                "and 1 to 150 degrees"
            )
        if math.dist(self.eye[:2], self.at[:2]) < 1e-6:
            raise ValueError(f"camera {self.name} looks along z: move `at` a little aside, so that up is defined")

    def intrinsics(self) -> Floats:
        """[3, 3], square pixels, the optical axis through the middle of the image."""
        focal = self.height / 2 / math.tan(math.radians(self.fov) / 2)
        return np.array(
            [[focal, 0.0, (self.width - 1) / 2], [0.0, focal, (self.height - 1) / 2], [0.0, 0.0, 1.0]], dtype=np.float64
        )

    def own_pose(self) -> Floats:
        """[4, 4], camera to what it is mounted on."""
        forward = np.subtract(self.at, self.eye)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, self.eye
        return pose


FRONT = Camera("front", eye=(0.42, 0.0, 0.62), at=(0.0, 0.0, 0.02), fov=36.0)
"""Eye to hand: sees the whole table."""
WRIST = Camera("wrist", eye=(-0.11, 0.0, 0.13), at=(0.02, 0.0, -0.05), fov=75.0, mounted="tool")
"""Eye in hand: looks past the finger at what lies below it."""
CAMERAS = {camera.name: camera for camera in (FRONT, WRIST)}


@dataclass(frozen=True)
class Frame:
    """What a camera sees: `rgb` uint8 [h, w, 3]; `depth` float32 [h, w] in metres along the optical axis, 0 where no
    surface is; `intrinsics` [3, 3]; `pose` [4, 4] camera to world, which is the truth; `geoms` int32 [h, w] the
    geom's number, -1 for none.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    intrinsics: Floats
    pose: Floats
    geoms: NDArray[np.int32]


def look(model: mujoco.MjModel, data: mujoco.MjData, camera: Camera) -> Frame:
    """Casts one ray a pixel. `data` must be up to date (mj_forward or mj_step before).

    Raises ValueError when the camera is mounted on a body that the model does not have.
    """
    pose, intrinsics = _pose(model, data, camera), camera.intrinsics()
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    inside = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
    lengths = np.linalg.norm(inside, axis=1)
    rays = (inside / lengths[:, None]) @ pose[:3, :3].T
    count = len(rays)
    geoms, along, normals = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
    # Arguments: all geom groups, the static ones too, no body left out; 10 m is as far as anything can be.
    mujoco.mj_multiRay(model, data, pose[:3, 3], rays.reshape(-1), None, 1, -1, geoms, along, normals, count, 10.0)
    hit = geoms >= 0
    depth = np.where(hit, along / lengths, 0.0)
    shape = (camera.height, camera.width)
    return Frame(
        _shaded(model, geoms, normals.reshape(-1, 3), hit).reshape(*shape, 3),
        depth.astype(np.float32).reshape(shape),
        intrinsics,
        pose,
        np.where(hit, geoms, -1).astype(np.int32).reshape(shape),
    )


def _shaded(model: Any, geoms: NDArray[np.int32], normals: Floats, hit: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Lambert's law with one far light and no shadows."""
    brightness = AMBIENT + (1 - AMBIENT) * np.clip(normals @ LIGHT, 0.0, 1.0)
    colours = model.geom_rgba[np.where(hit, geoms, 0), :3] * brightness[:, None] * 255.0
    return np.where(hit[:, None], np.clip(np.rint(colours), 0, 255), BACKGROUND).astype(np.uint8)


def _pose(model: Any, data: Any, camera: Camera) -> Floats:
    if camera.mounted is None:
        return camera.own_pose()
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, camera.mounted)
    if body < 0:
        raise ValueError(f"camera {camera.name} is mounted on {camera.mounted!r}, which the scene does not have")
    carrier = np.eye(4)
    carrier[:3, :3], carrier[:3, 3] = data.xmat[body].reshape(3, 3), data.xpos[body]
    return carrier @ camera.own_pose()
