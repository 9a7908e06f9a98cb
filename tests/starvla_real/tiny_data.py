"""A LeRobot v2.0 data set of a few short episodes: pictures, depth, states and actions in parquet, no video files.

The scene is a wall one metre away and a box before it that moves with the action, so the next frame follows from the
action. Depth, intrinsics, contact and where the box is seen lie in columns that upstream does not read.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

NAME = "tiny_lerobot"
MIXTURE, ROBOT = "tiny", "tiny_robot"
EPISODES, LENGTH, SIDE, HORIZON, DIMENSIONS = 4, 24, 64, 8, 7
FOCAL = 60.0
TASKS = ("pick up the cup", "open the drawer please")


def frame(offset: float, shade: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [SIDE, SIDE, 3] and depth float32 [SIDE, SIDE] (metres) with the box at `offset` in [-1, 1]."""
    picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
    depth = np.full((SIDE, SIDE), 1.0, np.float32)
    left = int((offset + 1) / 2 * (SIDE - 16))
    picture[24:40, left : left + 16] = (200, shade, 60)
    depth[24:40, left : left + 16] = 0.6
    return picture, depth


def named(depth: np.ndarray) -> np.ndarray:
    """bool [SIDE, SIDE]: the box, which stands before the wall and is what every task means."""
    return depth < 1.0


def intrinsics() -> np.ndarray:
    """float32 [3, 3], pixels."""
    return np.array([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]], np.float32)


def episode(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """States and actions, float32 [LENGTH, DIMENSIONS]: the first state is the box's place, its action the change."""
    actions = rng.uniform(-0.1, 0.1, (LENGTH, DIMENSIONS)).astype(np.float32)
    states = rng.uniform(-0.5, 0.5, (LENGTH, DIMENSIONS)).astype(np.float32)
    for step in range(1, LENGTH):
        states[step, 0] = np.clip(states[step - 1, 0] + actions[step - 1, 0], -1, 1)
    return states, actions


def png(picture: np.ndarray) -> bytes:
    """Of uint8 [h, w, 3], or of millimetres uint16 [h, w]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(folder: Path, seed: int) -> Path:
    """Writes the set to `folder`/NAME; `folder` is a `data_root_dir`."""
    import pandas

    root = folder / NAME
    (root / "meta").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(EPISODES):
        states, actions = episode(rng)
        rows = []
        for step in range(LENGTH):
            picture, depth = frame(float(states[step, 0]), 60 + 40 * number)
            rows.append(
                {
                    "observation.images.primary": {"bytes": png(picture), "path": None},
                    "observation.depth.primary_image": {"bytes": png((1000 * depth).astype(np.uint16))},
                    "observation.intrinsics.primary_image": intrinsics().ravel(),
                    "observation.named_mask.primary_image": {"bytes": png(np.uint8(255) * named(depth))},
                    "observation.contact": step % 3 == 0,
                    "observation.state": states[step],
                    "action": actions[step],
                    "timestamp": step / 10,
                    "frame_index": step,
                    "episode_index": number,
                    "index": number * LENGTH + step,
                    "task_index": number % len(TASKS),
                }
            )
        pandas.DataFrame(rows).to_parquet(root / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
    write_meta(root / "meta")
    return root


def write_meta(meta: Path) -> None:
    span = {"start": 0, "end": DIMENSIONS}
    modality = {
        "state": {"eef": {**span, "original_key": "observation.state"}},
        "action": {"eef": {**span, "original_key": "action"}},
        "video": {"primary_image": {"original_key": "observation.images.primary"}},
        "annotation": {"human.action.task_description": {"original_key": "task_index"}},
    }
    vector = {"dtype": "float32", "shape": [DIMENSIONS]}
    info = {
        "codebase_version": "v2.0",
        "fps": 10,
        "total_episodes": EPISODES,
        "total_frames": EPISODES * LENGTH,
        "total_videos": 0,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.images.primary": {
                "dtype": "image",
                "shape": [SIDE, SIDE, 3],
                "names": ["height", "width", "channel"],
            },
            "observation.state": vector,
            "action": vector,
        },
    }
    (meta / "modality.json").write_text(json.dumps(modality))
    (meta / "info.json").write_text(json.dumps(info))
    episodes = [{"episode_index": number, "tasks": [], "length": LENGTH} for number in range(EPISODES)]
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(TASKS)]
    for name, rows in (("episodes", episodes), ("tasks", tasks)):
        (meta / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
