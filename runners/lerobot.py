"""LeRobot v2.0 data sets with PNG bytes in parquet, as starVLA's loader reads them, and depth beside the pictures.

Beside upstream's columns each view has `observation.depth.VIEW` (PNG, 16 bits, millimetres, 0 where no surface is),
`observation.intrinsics.VIEW` (9 floats), `observation.camera_pose.VIEW` (16 floats, camera to gripper, rows first) and
`observation.named_mask.VIEW` (PNG, 255 where the named thing is): see `sagr/data/columns.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from runners.digests import write_whole

CHUNK = 1000
"""Episodes a folder."""
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
DEEPEST = 65.535
"""Metres that 16 bits of millimetres hold."""
TYPES = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "float32": pa.list_(pa.float32()),
    "bool": pa.bool_(),
}
STATISTICS, STATISTICS_FORMAT = "stats_gr00t.json", 2
"""Where upstream keeps a data set's statistics, and the format that it asks for."""


def feature(dtype: str, shape: Sequence[int], names: Sequence[str] | None = None) -> dict[str, Any]:
    """One column, as meta/info.json tells of it; `dtype` is a key of TYPES."""
    return {"dtype": dtype, "shape": list(shape), "names": None if names is None else list(names)}


def picture_feature(height: int, width: int) -> dict[str, Any]:
    return feature("image", [height, width, 3], ["height", "width", "channel"])


def geometry_features(view: str, height: int, width: int) -> dict[str, Any]:
    """Those of `geometry_cells`."""
    plane = feature("image", [height, width], ["height", "width"])
    return {
        f"observation.depth.{view}": plane,
        f"observation.intrinsics.{view}": feature("float32", [9]),
        f"observation.camera_pose.{view}": feature("float32", [16]),
        f"observation.named_mask.{view}": plane,
    }


def geometry_cells(
    view: str,
    depth: NDArray[np.float32],
    intrinsics: NDArray[Any],
    camera_pose: NDArray[Any],
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """A step's cells of one view: depth [h, w] in metres, [3, 3], [4, 4], and a mask [h, w]."""
    return {
        f"observation.depth.{view}": png(millimetres(depth)),
        f"observation.intrinsics.{view}": intrinsics.ravel().astype(np.float32),
        f"observation.camera_pose.{view}": camera_pose.ravel().astype(np.float32),
        f"observation.named_mask.{view}": png(np.uint8(255) * mask),
    }


def millimetres(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth in metres as whole millimetres. Raises ValueError for what 16 bits do not hold."""
    if not ((depth >= 0) & (depth <= DEEPEST)).all():
        raise ValueError(f"depth from {depth.min()} to {depth.max()} m: 0 to {DEEPEST} can be written")
    return np.rint(depth * 1000.0).astype(np.uint16)


def png(image: NDArray[Any]) -> dict[str, Any]:
    """A cell of a picture uint8 [h, w, 3], or of numbers uint8 or uint16 [h, w]."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def data_file(number: int) -> str:
    """Where an episode lies in the data set's folder."""
    return DATA_PATH.format(episode_chunk=number // CHUNK, episode_index=number)


def episode_table(
    rows: Sequence[Mapping[str, Any]],
    features: Mapping[str, Mapping[str, Any]],
    *,
    number: int,
    begin: int,
    task: int,
    fps: int,
) -> pa.Table:
    """One episode: a row of cells a step, with the columns that `features` name; `begin` steps lie before it."""
    steps = len(rows)
    columns = {name: pa.array([row[name] for row in rows], TYPES[of["dtype"]]) for name, of in features.items()}
    columns |= {
        "timestamp": pa.array((np.arange(steps) / fps).astype(np.float32)),
        "frame_index": pa.array(np.arange(steps)),
        "episode_index": pa.array(np.full(steps, number)),
        "index": pa.array(np.arange(begin, begin + steps)),
        "task_index": pa.array(np.full(steps, task)),
    }
    return pa.table(columns)


def spans(names: Iterable[str], **more: Any) -> dict[str, Any]:
    """For meta/modality.json: each name is one number of a column, in order."""
    return {name: {"start": at, "end": at + 1, **more} for at, name in enumerate(names)}


def write_meta(
    meta: Path,
    *,
    robot: str,
    fps: int,
    features: Mapping[str, Any],
    modality: Mapping[str, Any],
    tasks: Sequence[str],
    episodes: Sequence[Mapping[str, Any]],
) -> None:
    """Makes the folder `meta`. `modality` has `state`, `action` and `video`; an episode's `length` is in steps."""
    meta.mkdir()
    info = {
        "codebase_version": "v2.0",
        "robot_type": robot,
        "total_episodes": len(episodes),
        "total_frames": sum(episode["length"] for episode in episodes),
        "total_tasks": len(tasks),
        "total_videos": 0,
        "total_chunks": (len(episodes) - 1) // CHUNK + 1,
        "chunks_size": CHUNK,
        "fps": fps,
        "data_path": DATA_PATH,
        "video_path": "",
        "features": features,
    }
    annotation = {"human.action.task_description": {"original_key": "task_index"}}
    write_lines(meta / "info.json", [info])
    write_lines(meta / "tasks.jsonl", [{"task_index": index, "task": task} for index, task in enumerate(tasks)])
    write_lines(meta / "episodes.jsonl", episodes)
    write_lines(meta / "modality.json", [{**modality, "annotation": annotation}])


def write_statistics(meta: Path, columns: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes what upstream computes of `columns`, each [steps, n], and keeps.

    Upstream reads every column of every episode into memory for it, pictures too, unless it is there.
    """
    found = {}
    for name, values in columns.items():
        of = {"mean": values.mean(axis=0), "std": values.std(axis=0), "min": values.min(axis=0)}
        of |= {"max": values.max(axis=0), "q01": np.quantile(values, 0.01, axis=0)}
        of |= {"q99": np.quantile(values, 0.99, axis=0)}
        found[name] = {kind: value.tolist() for kind, value in of.items()}
    kept = {"__format_version": STATISTICS_FORMAT, "__cache_config": {"mode": "abs"}, "statistics": found}
    write_lines(meta / STATISTICS, [kept])


def write_lines(place: Path, lines: Sequence[Any]) -> None:
    """JSON, a line each; written whole or not at all."""
    write_whole(place, "".join(json.dumps(line) + "\n" for line in lines))
