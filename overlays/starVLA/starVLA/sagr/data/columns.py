"""Depth, camera and contact of a step, from further columns of a LeRobot data set's parquet files.

One column a view, named for the key of its video: for ``video.primary``

observation.depth.primary         {"bytes": PNG of 16 bits a pixel, in millimetres}, or nested lists [h][w] of metres;
                                  0 where there is none
observation.intrinsics.primary    9 numbers, the rows of the camera matrix, in pixels of the depth map
observation.camera_pose.primary   16 numbers, the rows of the transform from the camera (x right, y down, z forward) to
                                  the common frame, metres
observation.named_mask.primary    {"bytes": PNG}, or nested lists [h][w]: not 0 where the thing is that the instruction
                                  names, for the grounding loss
observation.contact               one a step: whether the gripper touches something

A data set may have none of a kind, or one for each of the first views.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

CONTACT = "observation.contact"


def metres(cell: Any) -> np.ndarray:
    """A depth map float32 [h, w]. Raises ValueError for anything but a 16 bit PNG or a rectangle of numbers."""
    if isinstance(cell, dict):
        if cell.get("bytes") is None:
            raise ValueError("it has no 'bytes': depth has to lie in the parquet file as a PNG")
        with Image.open(io.BytesIO(cell["bytes"])) as picture:
            if picture.mode not in ("I;16", "I;16B", "I"):
                raise ValueError(f"its PNG is of mode {picture.mode}: depth has 16 bits a pixel, in millimetres")
            return np.asarray(picture).astype(np.float32) / 1000
    depth = numbers(cell)
    if depth.ndim != 2:
        raise ValueError(f"it has the shape {list(depth.shape)}: depth is [h, w]")
    return depth


def mask(cell: Any) -> np.ndarray:
    """A mask bool [h, w]. Raises ValueError for anything but a PNG of one channel or a rectangle of numbers."""
    if isinstance(cell, dict):
        if cell.get("bytes") is None:
            raise ValueError("it has no 'bytes': a mask has to lie in the parquet file as a PNG")
        with Image.open(io.BytesIO(cell["bytes"])) as picture:
            found = np.asarray(picture)
    else:
        found = numbers(cell)
    if found.ndim != 2:
        raise ValueError(f"it has the shape {list(found.shape)}: a mask is [h, w]")
    return found != 0


def square(side: int) -> Callable[[Any], np.ndarray]:
    """Reads ``side`` * ``side`` numbers as a matrix float32, row by row. Raises ValueError for another count."""

    def read(cell: Any) -> np.ndarray:
        values = numbers(cell)
        if values.size != side * side:
            raise ValueError(f"it has {values.size} numbers: {side * side} are needed, row by row")
        return values.reshape(side, side)

    return read


def numbers(cell: Any) -> np.ndarray:
    """float32 of numbers or nested lists of numbers, which pandas gives as arrays of arrays."""
    if (isinstance(cell, np.ndarray) and cell.dtype == object) or isinstance(cell, (list, tuple)):
        cell = np.stack([numbers(each) for each in cell])
    return np.asarray(cell, dtype=np.float32)


READERS: dict[str, Callable[[Any], np.ndarray]] = {
    "depth": metres,
    "intrinsics": square(3),
    "camera_pose": square(4),
    "named_mask": mask,
}
"""By the key of a sample; the column is ``observation.KEY.VIEW``."""


def found(table: Any, views: Sequence[str]) -> dict[str, list[str]]:
    """Which columns of an episode's data frame are there, by the key of a sample: the first views' in order.

    Raises ValueError where a later view has a column that an earlier one lacks: views are told apart by their order.
    """
    columns: dict[str, list[str]] = {}
    for key in READERS:
        names = [f"observation.{key}.{view}" for view in views]
        there = [name in table.columns for name in names]
        count = there.index(False) if False in there else len(there)
        if any(there[count:]):
            raise ValueError(
                f"{names[there.index(True, count)]} is there and {names[count]} is not: give both, or neither"
            )
        if count:
            columns[key] = names[:count]
    return columns


def read(table: Any, step: int, columns: dict[str, list[str]]) -> dict[str, Any]:
    """What those columns say at a step: a list a key, one array a view; and ``contact`` (1.0 or 0.0).

    Raises ValueError naming column and step.
    """
    sample: dict[str, Any] = {}
    for key, names in columns.items():
        sample[key] = []
        for name in names:
            try:
                sample[key].append(READERS[key](table[name].iloc[step]))
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"column {name}, step {step}: {error}") from error
    if CONTACT in table.columns:
        sample["contact"] = float(bool(table[CONTACT].iloc[step]))
    return sample
