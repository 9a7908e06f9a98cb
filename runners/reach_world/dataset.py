"""Demonstrations on disk: a LeRobot data set of runners/lerobot.py, with masks of the named object, and with
`observation.contact`: whether the tool touches anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from runners.lerobot import (
    data_file,
    episode_table,
    feature,
    geometry_cells,
    geometry_features,
    picture_feature,
    png,
    spans,
    write_meta,
)
from runners.reach_world.record import Demonstration
from runners.reach_world.world import CONTROL_HZ, Observation

STATE_NAMES, ACTION_NAMES = ("x", "y", "z", "touch"), ("x", "y", "z")


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
    features = features_of(cameras)
    begin, episodes = 0, []
    for number, demonstration in enumerate(demonstrations):
        instruction, length = demonstration.observations[0].instruction, len(demonstration.actions)
        place = folder / data_file(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        numbers = {"number": number, "begin": begin, "task": tasks.index(instruction), "fps": CONTROL_HZ}
        pq.write_table(episode_table(_rows(demonstration), features, **numbers), place)
        episodes.append({"episode_index": number, "tasks": [instruction], "length": length, "seed": demonstration.seed})
        begin += length
    modality = {
        "state": spans(STATE_NAMES),
        # Differences: the loader pads them with zeros, not with the last one, after an episode's end.
        "action": spans(ACTION_NAMES, absolute=False),
        "video": {name: {"original_key": f"observation.images.{name}"} for name in cameras},
    }
    about = {"features": features, "modality": modality, "tasks": tasks, "episodes": episodes}
    write_meta(folder / "meta", robot="reach_world", fps=CONTROL_HZ, **about)
    return folder


def features_of(cameras: dict[str, tuple[int, int]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "observation.state": feature("float32", [len(STATE_NAMES)], STATE_NAMES),
        "action": feature("float32", [len(ACTION_NAMES)], ACTION_NAMES),
        "observation.contact": feature("bool", [1]),
    }
    for name, size in cameras.items():
        found |= {f"observation.images.{name}": picture_feature(*size), **geometry_features(name, *size)}
    return found


def _rows(demonstration: Demonstration) -> list[dict[str, Any]]:
    return [
        _row(seen, action, demonstration.named)
        for seen, action in zip(demonstration.observations, demonstration.actions, strict=True)
    ]


def _row(seen: Observation, action: np.ndarray, named: int) -> dict[str, Any]:
    row = {"observation.state": seen.state, "action": action, "observation.contact": seen.touching}
    for name, frame in seen.frames.items():
        row[f"observation.images.{name}"] = png(frame.rgb)
        row |= geometry_cells(name, frame.depth, frame.intrinsics, seen.camera_pose[name], frame.geoms == named)
    return row
