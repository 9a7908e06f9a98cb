"""From the examples of a batch to views. Every error names the example's index and the key.

Keys of an example, each with ``suffix`` behind it ("_tk" for the frame k steps later); one value, or a list with one
per view. Views are in the order of ``image``; the depth back end leaves out the images behind the last depth map, for
MapAnything the first views may have more than the last.

depth        [h, w] or [h, w, 1] float, metres along z; 0, negative, NaN or inf where there is none
points       [h, w, 3] float point map, or an [N, 3] cloud, metres in the camera's frame; a cloud is rendered to a depth
             map of the image's size and needs intrinsics; instead of depth
intrinsics   [3, 3], in pixels of the depth map; without "intrinsics_tk" those of the first frame hold: a lens stays
camera_pose  [4, 4], camera (OpenCV: x right, y down, z forward) to the common frame
named_mask   [h, w] bool, 0 for no: where the thing is that the instruction names; resized too; for training
image        PIL images or [h, w, 3] arrays, uint8 or float in [0, 1]; resized to the depth map's size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base import View

Example = Mapping[str, Any]
KEYS = {
    "depth": "depth",
    "points": "points",
    "intrinsics": "intrinsics",
    "pose": "camera_pose",
    "image": "image",
    "named": "named_mask",
}
"""What ``View`` calls a thing, and what an example calls it."""
FARTHEST = 1e6
"""Metres. What is finite and beyond is no measurement, and its square would overflow where tokens are made of it."""


def collect(examples: Sequence[Example], suffix: str = "", needs: str = "depth") -> list[View]:
    """One ``View`` per camera, float32 on the CPU, for a back end that needs "depth" (or points) or "image".

    Raises ``ValueError`` for a key that is missing, present in some examples only, of another shape or type than the
    others, for intrinsics or a pose with NaN or inf, lengths above ``FARTHEST``, and for an example without one valid
    pixel.
    """
    if needs not in ("depth", "image"):
        raise ValueError(f"needs = {needs!r}: a geometry back end needs 'depth' or 'image'")
    if not examples:
        raise ValueError("no example in the batch")
    rows = [_read(i, example, suffix, needs) for i, example in enumerate(examples)]
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"example {i} has {len(row)} view(s), example 0 has {len(rows[0])}: give all the same")
    return [View(**_stack([row[v] for row in rows], v, suffix)) for v in range(len(rows[0]))]


def render(points: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The depth map [h, w] float32 of a cloud [N, 3] in the camera's frame: nearest point a pixel, 0 for none."""
    points = points[np.isfinite(points).all(1) & (points[:, 2] > 0)]
    x, y, z = points.T
    u = np.rint(intrinsics[0, 0] * x / z + intrinsics[0, 2])
    v = np.rint(intrinsics[1, 1] * y / z + intrinsics[1, 2])
    inside = (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])
    depth = np.full(size, np.inf, np.float32)
    np.minimum.at(depth, (v[inside].astype(int), u[inside].astype(int)), z[inside])
    return np.where(np.isinf(depth), np.float32(0), depth)


def _read(i: int, example: Example, suffix: str, needs: str) -> list[dict[str, np.ndarray]]:
    """The views of one example, each a dictionary of what ``View`` holds."""
    found = {name: _values(i, example, key, suffix) for name, key in KEYS.items()}
    for name in ("pose", "image"):
        key = KEYS[name]
        if suffix and not found[name] and example.get(key) is not None:
            raise ValueError(f"example {i} has {key!r} but no '{key}{suffix}': both frames need what one has")
    if found["depth"] and found["points"]:
        raise ValueError(f"example {i} has both 'depth{suffix}' and 'points{suffix}': give one of them")
    main = "image" if needs == "image" else "points" if found["points"] else "depth"
    count = len(found[main])
    if not count:
        other = f" nor 'points{suffix}'" if main == "depth" else ""
        raise ValueError(
            f"example {i} has no '{main}{suffix}'{other}: add it, or set framework.sagr.geometry.backend to none"
        )
    if needs == "depth":
        found["image"] = found["image"][:count]
    for name, values in found.items():
        if len(values) > count or (needs == "depth" and 0 < len(values) < count):
            raise ValueError(f"example {i} has {len(values)} of '{KEYS[name]}{suffix}' for {count} view(s): one each")
    views = [{name: values[v] for name, values in found.items() if v < len(values)} for v in range(count)]
    for v, view in enumerate(views):
        _complete(f"example {i}, view {v}", view, suffix)
    if needs == "depth" and not any(_valid(view).any() for view in views):
        raise ValueError(f"example {i}, key '{main}{suffix}': no valid pixel in {count} view(s), all NaN, inf or <= 0")
    return views


def _values(i: int, example: Example, key: str, suffix: str) -> list[np.ndarray]:
    """What the example has under a key, checked, one array for each view."""
    name = key if key == "intrinsics" and example.get(key + suffix) is None else key + suffix
    value = example.get(name)
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return []
    try:
        many = isinstance(value, (list, tuple)) and not isinstance(value[0], (list, tuple, int, float))
        if not many:
            value = np.asarray(value)
            per_view = {"depth": 2 + (value.shape[-1] == 1), "points": 3, "image": 3}.get(key, 2)
            value = list(value) if value.ndim > per_view else [value]
        return [CHECKS[key](np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one)) for one in value]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"example {i}, key {name!r}: {error}") from error


def _complete(place: str, view: dict[str, np.ndarray], suffix: str) -> None:
    """Render a cloud, ask for intrinsics where they are needed, and bring the image to the geometry's size."""
    cloud = "points" in view and view["points"].ndim == 2
    if ("depth" in view or cloud) and "intrinsics" not in view:
        raise ValueError(f"{place}: no 'intrinsics{suffix}' for its depth or cloud; give the [3, 3] camera matrix")
    if cloud:
        if "image" not in view:
            raise ValueError(f"{place}: 'points{suffix}' is a cloud [N, 3] and needs 'image{suffix}' for its size")
        view["depth"] = render(view.pop("points"), view["intrinsics"], view["image"].shape[:2])
    geometry = view.get("depth", view.get("points"))
    if "named" in view and geometry is not None and view["named"].shape != geometry.shape[:2]:
        size = (geometry.shape[1], geometry.shape[0])
        view["named"] = np.asarray(Image.fromarray(view["named"]).resize(size, Image.Resampling.NEAREST))
    if "image" in view:
        image = view["image"]
        if geometry is not None and image.shape[:2] != geometry.shape[:2]:
            size = (geometry.shape[1], geometry.shape[0])
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        view["image"] = image.transpose(2, 0, 1).astype(np.float32) / 255


def _stack(rows: list[dict[str, np.ndarray]], v: int, suffix: str) -> dict[str, Tensor]:
    """One view of all examples, key by key."""
    names = {name: KEYS[name] + suffix for row in rows for name in row}
    for name, key in names.items():
        without = [i for i, row in enumerate(rows) if name not in row]
        if without:
            raise ValueError(f"example {without[0]}, view {v} has no {key!r}, others of the batch have: give it to all")
        for i, row in enumerate(rows):
            if row[name].shape != rows[0][name].shape:
                raise ValueError(
                    f"example {i}, view {v}, key {key!r} is {row[name].shape}, in example 0 it is "
                    f"{rows[0][name].shape}: one batch needs one size"
                )
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in names}


def _valid(view: dict[str, np.ndarray]) -> np.ndarray:
    if "points" in view:
        return np.isfinite(view["points"]).all(-1)
    return np.isfinite(view["depth"]) & (view["depth"] > 0)


def _floats(array: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """float32 of the shape, where ``None`` is any size. Raises ``ValueError`` for another one and for no numbers."""
    if len(array.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        expected = ["any" if n is None else n for n in shape]
        raise ValueError(f"the shape is {list(array.shape)}, it must be {expected}")
    if not array.size:
        raise ValueError(f"the shape is {list(array.shape)}: it is empty")
    return array.astype(np.float32)


def _refuse_far(metres: np.ndarray) -> None:
    if ((metres > FARTHEST) & (metres < np.inf)).any():
        raise ValueError(f"it holds lengths above {FARTHEST:g} metres: give 0, NaN or inf where nothing was measured")


def _finite(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError("it holds NaN or inf")
    return array


def _depth(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise ValueError(f"it is {array.dtype}: give metres as float, integers are often millimetres")
    array = _floats(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array, (None, None))
    _refuse_far(array)
    return array


def _points(array: np.ndarray) -> np.ndarray:
    array = _floats(array, (*[None] * (array.ndim - 1 if array.ndim == 2 else 2), 3))
    _refuse_far(np.abs(array))
    return array


def _intrinsics(array: np.ndarray) -> np.ndarray:
    array = _finite(_floats(array, (3, 3)))
    if array[0, 0] <= 0 or array[1, 1] <= 0:
        raise ValueError(f"the focal lengths are {array[0, 0]} and {array[1, 1]}, they must be positive")
    return array


def _pose(array: np.ndarray) -> np.ndarray:
    array = _finite(_floats(array, (4, 4)))
    _refuse_far(np.abs(array))
    return array


def _image(array: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]."""
    if array.dtype.kind == "f":
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError("it is float and not within [0, 1]: give uint8, or divide by 255")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"it is {array.dtype} {list(array.shape)}: give RGB, [h, w, 3]")
    return array


def _mask(array: np.ndarray) -> np.ndarray:
    """bool [h, w]."""
    if array.dtype.kind not in "bui" or array.ndim != 2:
        raise ValueError(f"it is {array.dtype} {list(array.shape)}: give bool or integers, [h, w]")
    return array != 0


CHECKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "depth": _depth,
    "points": _points,
    "intrinsics": _intrinsics,
    "camera_pose": _pose,
    "image": _image,
    "named_mask": _mask,
}
