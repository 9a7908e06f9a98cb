"""What is recorded of LIBERO, as a LeRobot data set of runners/lerobot.py under upstream's names. No simulator here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from runners import lerobot
from runners.libero_world.messages import Observation
from runners.libero_world.task import CONTROL_HZ, RESOLUTION
from runners.places import Refused

VIEWS = {"agentview": ("primary_image", "image"), "robot0_eye_in_hand": ("wrist_image", "wrist_image")}
"""Of each camera, what upstream calls it, and its column below `observation.images.`."""
STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper")
ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""As upstream names them; the state's rotation is axis times angle, and its last two are the fingers."""
NUMBERS = ("observation.state", "action")
FACTS = "recording.json"
"""Beside upstream's files of meta: the settings, and what became of each demonstration."""
FROM_ROW = ("length", "task", "demo", "named", "success")


def folder_of(out: Path, suite: str) -> Path:
    """Named as upstream's mixtures name the suite's data set."""
    return out / f"{suite}_no_noops_1.0.0_lerobot"


def cells(
    seen: Observation, masks: Mapping[str, NDArray[np.bool_]], touching: bool, action: NDArray[np.float32]
) -> dict[str, Any]:
    """Of a control step: what a policy sees before `action`, and by camera where what the task is about is seen."""
    row = {"observation.state": seen.state, "action": action, "observation.contact": touching}
    for camera, (view, column) in VIEWS.items():
        row[f"observation.images.{column}"] = lerobot.png(seen.images[camera])
        geometry = (seen.depth[camera], seen.intrinsics[camera], seen.camera_pose[camera])
        row |= lerobot.geometry_cells(view, *geometry, masks[camera])
    return row


def features() -> dict[str, Any]:
    found = {
        "observation.state": lerobot.feature("float32", [len(STATE_NAMES)], STATE_NAMES),
        "action": lerobot.feature("float32", [len(ACTION_NAMES)], ACTION_NAMES),
        "observation.contact": lerobot.feature("bool", [1]),
    }
    for view, column in VIEWS.values():
        found[f"observation.images.{column}"] = lerobot.picture_feature(RESOLUTION, RESOLUTION)
        found |= lerobot.geometry_features(view, RESOLUTION, RESOLUTION)
    return found


FEATURES = features()


def write_table(place: Path, table: pa.Table) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    pq.write_table(table, part)
    part.replace(place)


def conclude(made: Path, folder: Path, settings: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> None:
    """Writes into `made` the data set's own account of itself, and only then moves it to where a loader would look."""
    kept = [row for row in done if row["episode"] is not None]
    episodes = [
        {"episode_index": row["episode"], "tasks": [row["instruction"]], **{k: row[k] for k in FROM_ROW}}
        for row in kept
    ]
    # What stopped runs left.
    for part in made.rglob("*.part"):
        part.unlink()
    if (made / "meta").exists():
        shutil.rmtree(made / "meta")
    modality = {
        "state": lerobot.spans(STATE_NAMES),
        "action": lerobot.spans(ACTION_NAMES),
        "video": {view: {"original_key": f"observation.images.{column}"} for view, column in VIEWS.values()},
    }
    about = {"features": FEATURES, "modality": modality, "episodes": episodes}
    tasks = list(dict.fromkeys(row["instruction"] for row in kept))
    lerobot.write_meta(made / "meta", robot="libero_franka", fps=CONTROL_HZ, tasks=tasks, **about)
    tables = [pq.read_table(made / lerobot.data_file(row["episode"]), columns=list(NUMBERS)) for row in kept]
    joined = pa.concat_tables(tables)
    columns = {name: np.array(joined[name].to_pylist(), dtype=np.float32) for name in NUMBERS}
    lerobot.write_statistics(made / "meta", columns)
    lerobot.write_lines(made / "meta" / FACTS, [{"settings": settings, "demonstrations": done}])
    made.replace(folder)


def written(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a finished run has replayed. Raises Refused for a data set of something else."""
    place = folder / "meta" / FACTS
    facts = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    if facts.get("settings") != settings:
        raise Refused(f"{folder} holds a data set that was not recorded with these settings: choose another --out")
    return list(facts["demonstrations"])
