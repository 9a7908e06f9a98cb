"""LIBERO's cameras as starVLA's geometry wants them: depth in metres, intrinsics, and the way to the gripper.

robosuite's pictures and z-buffers begin with the lowest row, and upstream's client and data turn pictures by
`[::-1, ::-1]`: rows then run from the top, and columns are mirrored, as in a looking-glass. Depth is turned with the
picture, so that a pixel is the same in both. Intrinsics know no mirror (a focal length is positive), so `camera_pose`
holds it: a reflection, determinant -1. Without it a target that has moved to the left would call for actions to the
right.

The gripper's frame has its origin at the gripper and the world's axes, in which LIBERO's controller takes a
translation: where the target lies 5 cm further along x, so does its token, and the action that follows it grows in x.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TO_OPENCV = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up, those of OpenCV along z with y down."""
MIRROR = np.diag([-1.0, 1.0, 1.0])
"""What turning a picture leaves beside the right order of its rows."""


def turned(picture: NDArray[Any]) -> NDArray[Any]:
    """A picture or z-buffer [h, w, ...] as upstream's client hands it over."""
    return np.ascontiguousarray(picture[::-1, ::-1])


def metres(zbuffer: ArrayLike, near: float, far: float) -> NDArray[np.float32]:
    """Depth along the optical axis, of a z-buffer in [0, 1]: near / (1 - z (1 - near / far)); 0 where nothing is (z=1).

    `near` and `far` in metres are MuJoCo's `vis.map.znear` and `zfar` times `stat.extent`. Raises ValueError for planes
    that are none, and values outside [0, 1], which are no z-buffer.
    """
    if not 0 < near < far:
        raise ValueError(f"near={near}, far={far}: wants 0 < near < far; both are vis.map's times stat.extent")
    z = np.asarray(zbuffer, dtype=np.float64)
    if not ((z >= 0) & (z <= 1)).all():
        raise ValueError("a z-buffer lies in [0, 1]: was it turned into metres already?")
    return np.where(z < 1, near / (1 - z * (1 - near / far)), 0.0).astype(np.float32)


def intrinsics(fovy: float, height: int, width: int) -> Floats:
    """[3, 3] of a camera with square pixels and `fovy` degrees from top to bottom; a pixel's centre has whole
    coordinates, as in `sagr.geometry.depth.lift`.
    """
    focal = height / 2 / math.tan(math.radians(fovy) / 2)
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def camera_pose(position: ArrayLike, rotation: ArrayLike, gripper: ArrayLike) -> Floats:
    """[4, 4], points of a turned picture's camera to the gripper's frame. `position` [3] and `rotation` [3, 3] are
    MuJoCo's `cam_xpos` and `cam_xmat`, `gripper` [3] its place in the world.
    """
    pose = np.eye(4)
    pose[:3, :3] = np.asarray(rotation, dtype=np.float64).reshape(3, 3) @ TO_OPENCV @ MIRROR
    pose[:3, 3] = np.asarray(position, dtype=np.float64) - np.asarray(gripper, dtype=np.float64)
    return pose


def axis_angle(quaternion: ArrayLike) -> Floats:
    """[3], axis times angle in radians, of a quaternion (x, y, z, w), as LIBERO's data sets hold the gripper's
    orientation: the angle lies in [0, 2 pi], that of -q is another one.
    """
    x, y, z, w = (float(value) for value in np.asarray(quaternion, dtype=np.float64))
    w = min(max(w, -1.0), 1.0)
    sine = math.sqrt(1.0 - w * w)
    return np.zeros(3) if math.isclose(sine, 0.0) else np.array([x, y, z]) * (2.0 * math.acos(w) / sine)
