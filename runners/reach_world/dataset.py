"""Demonstrations on disk: a LeRobot v2.0 data set with PNG bytes in parquet, as starVLA's loader reads it.

Beside upstream's columns each camera has `observation.depth.<camera>` (PNG, 16 bits, millimetres, 0 where no surface
is), `observation.intrinsics.<camera>` (9 floats) and `observation.camera_pose.<camera>` (16 floats, camera to gripper,
rows first); `observation.contact` says whether the tool touches anything.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from runners.reach_world.record import Demonstration
from runners.reach_world.world import CONTROL_HZ

CHUNK = 1000
"""Episodes a folder."""
STATE_NAMES, ACTION_NAMES = ("x", "y", "z", "touch"), ("x", "y", "z")
PNG = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FLOATS = pa.list_(pa.float32())


def write_dataset(folder: Path, demonstrations: Sequence[Demonstration]) -> Path:
    """Writes the data set into `folder`, which is made; what a loader cached there before is not looked at.

    Raises ValueError without demonstrations, for different cameras among them, and FileExistsError where a data set
    lies already.
    """
    if not demonstrations:
        raise ValueError(f"{folder}: no demonstrations to write")
    if (folder / "meta").exists():
        raise FileExistsError(f"{folder} holds a data set: remove it, or name another folder")
    first = demonstrations[0].observations[0]
    cameras = {name: frame.rgb.shape[:2] for name, frame in first.frames.items()}
    for demonstration in demonstrations:
        seen = {name: frame.rgb.shape[:2] for name, frame in demonstration.observations[0].frames.items()}
        if seen != cameras:
            raise ValueError(f"the episode of seed {demonstration.seed} has the cameras {seen}, the first {cameras}")
    tasks = list(dict.fromkeys(d.observations[0].instruction for d in demonstrations))
    begin = 0
    for number, demonstration in enumerate(demonstrations):
        place = folder / "data" / f"chunk-{number // CHUNK:03d}" / f"episode_{number:06d}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        task = tasks.index(demonstration.observations[0].instruction)
        pq.write_table(_table(demonstration, number, begin, task), place)
        begin += len(demonstration.actions)
    _write_meta(folder / "meta", demonstrations, cameras, tasks)
    return folder


def _table(demonstration: Demonstration, number: int, begin: int, task: int) -> pa.Table:
    seen, steps = demonstration.observations, len(demonstration.actions)
    columns: dict[str, pa.Array] = {
        "observation.state": pa.array([one.state for one in seen], FLOATS),
        "action": pa.array(list(demonstration.actions), FLOATS),
        "observation.contact": pa.array([one.touching for one in seen]),
        "timestamp": pa.array((np.arange(steps) / CONTROL_HZ).astype(np.float32)),
        "frame_index": pa.array(np.arange(steps)),
        "episode_index": pa.array(np.full(steps, number)),
        "index": pa.array(np.arange(begin, begin + steps)),
        "task_index": pa.array(np.full(steps, task)),
    }
    for name in seen[0].frames:
        frames = [one.frames[name] for one in seen]
        columns[f"observation.images.{name}"] = _pngs([frame.rgb for frame in frames])
        columns[f"observation.depth.{name}"] = _pngs([millimetres(frame.depth) for frame in frames])
        columns[f"observation.intrinsics.{name}"] = pa.array([frame.intrinsics.ravel() for frame in frames], FLOATS)
        columns[f"observation.camera_pose.{name}"] = pa.array([one.camera_pose[name].ravel() for one in seen], FLOATS)
    return pa.table(columns)


def millimetres(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth in metres as whole millimetres, which 16 bits hold up to 65 m."""
    return np.rint(depth * 1000.0).astype(np.uint16)


def _pngs(images: Sequence[NDArray[Any]]) -> pa.Array:
    found = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        found.append({"bytes": stream.getvalue(), "path": None})
    return pa.array(found, PNG)


def _write_meta(
    meta: Path, demonstrations: Sequence[Demonstration], cameras: dict[str, tuple[int, int]], tasks: Sequence[str]
) -> None:
    meta.mkdir()
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": list(STATE_NAMES)},
        "action": {"dtype": "float32", "shape": [len(ACTION_NAMES)], "names": list(ACTION_NAMES)},
        "observation.contact": {"dtype": "bool", "shape": [1], "names": None},
    }
    for name, (height, width) in cameras.items():
        features |= {
            f"observation.images.{name}": _feature("image", [height, width, 3], ["height", "width", "channel"]),
            f"observation.depth.{name}": _feature("image", [height, width], ["height", "width"]),
            f"observation.intrinsics.{name}": _feature("float32", [9], None),
            f"observation.camera_pose.{name}": _feature("float32", [16], None),
        }
    total = sum(len(demonstration.actions) for demonstration in demonstrations)
    info = {
        "codebase_version": "v2.0",
        "robot_type": "reach_world",
        "total_episodes": len(demonstrations),
        "total_frames": total,
        "total_tasks": len(tasks),
        "total_videos": 0,
        "total_chunks": (len(demonstrations) - 1) // CHUNK + 1,
        "chunks_size": CHUNK,
        "fps": CONTROL_HZ,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "",
        "features": features,
    }
    _write(meta / "info.json", [info])
    _write(meta / "tasks.jsonl", [{"task_index": index, "task": task} for index, task in enumerate(tasks)])
    episodes = [
        {
            "episode_index": number,
            "tasks": [demonstration.observations[0].instruction],
            "length": len(demonstration.actions),
            "seed": demonstration.seed,
        }
        for number, demonstration in enumerate(demonstrations)
    ]
    _write(meta / "episodes.jsonl", episodes)
    modality = {
        "state": {name: {"start": at, "end": at + 1} for at, name in enumerate(STATE_NAMES)},
        # Differences: the loader pads them with zeros, not with the last one, after an episode's end.
        "action": {name: {"start": at, "end": at + 1, "absolute": False} for at, name in enumerate(ACTION_NAMES)},
        "video": {name: {"original_key": f"observation.images.{name}"} for name in cameras},
        "annotation": {"human.action.task_description": {"original_key": "task_index"}},
    }
    _write(meta / "modality.json", [modality])


def _feature(dtype: str, shape: Sequence[int], names: Sequence[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "names": None if names is None else list(names)}


def _write(place: Path, lines: Sequence[Any]) -> None:
    place.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
