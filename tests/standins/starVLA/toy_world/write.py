"""The toy world on disk: a LeRobot v2.0 data set with depth, a model, and the YAML of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from .scene import CAMERA_POSE, COLOURS, INTRINSICS, SIDE, Scene

TASKS = [f"reach the {colour} block" for colour in COLOURS]
PICTURE, PLAIN = "observation.images.primary", ("observation.state", "action")


def png(array: np.ndarray) -> dict[str, Any]:
    made = io.BytesIO()
    Image.fromarray(array).save(made, "PNG")
    return {"bytes": made.getvalue(), "path": None}


def seen_as(picture: np.ndarray, colour: str) -> np.ndarray:
    """bool [32, 32]: the pixels of that block which nothing hides."""
    return (picture == COLOURS[colour]).all(axis=-1)


def episode(rng: np.random.Generator, number: int, length: int, first: int, geometry: bool) -> pd.DataFrame:
    """``length`` steps of an expert whose hand shakes a little."""
    scene, task, rows = Scene.random(rng), number % len(TASKS), []
    for step in range(length):
        picture, depth = scene.render()
        action = scene.expert(list(COLOURS)[task])
        rows.append(
            {
                PICTURE: png(picture),
                "observation.state": scene.state,
                "action": action,
                "timestamp": step / 10,
                "frame_index": step,
                "episode_index": number,
                "index": first + step,
                "task_index": task,
            }
        )
        if geometry:
            rows[-1] |= {
                "observation.depth.primary": png((depth * 1000).round().astype(np.uint16)),
                "observation.intrinsics.primary": INTRINSICS.ravel(),
                "observation.camera_pose.primary": CAMERA_POSE.ravel(),
                "observation.contact": scene.touches(list(COLOURS)[task]),
                "observation.named_mask.primary": png(np.uint8(255) * seen_as(picture, list(COLOURS)[task])),
            }
        scene.step(action + np.array([*rng.normal(0, 0.01, 2), 0.0]))
    return pd.DataFrame(rows)


def write_dataset(folder: Path, episodes: int = 12, length: int = 16, seed: int = 0, geometry: bool = True) -> Path:
    """Writes the data set; an episode is a few steps shorter or longer than ``length``."""
    rng = np.random.default_rng(seed)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    (folder / "meta").mkdir()
    lengths = [length + int(rng.integers(-2, 3)) for _ in range(episodes)]
    for number, steps in enumerate(lengths):
        table = episode(rng, number, steps, sum(lengths[:number]), geometry)
        table.to_parquet(folder / "data" / "chunk-000" / f"episode_{number:06d}.parquet")
    whole = {"start": 0, "end": 3}
    modality = {
        "state": {"eef": {**whole, "original_key": PLAIN[0]}},
        "action": {"eef": {**whole, "original_key": PLAIN[1]}},
        "video": {"primary": {"original_key": PICTURE}},
        "annotation": {"human.action.task_description": {"original_key": "task_index"}},
    }
    seen = {"dtype": "image", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channel"]}
    info = {
        "codebase_version": "v2.0",
        "fps": 10,
        "total_episodes": episodes,
        "total_frames": sum(lengths),
        "total_videos": 0,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {PICTURE: seen, **{name: {"dtype": "float32", "shape": [3]} for name in PLAIN}},
    }
    tables = {
        "episodes": [{"episode_index": n, "tasks": [], "length": steps} for n, steps in enumerate(lengths)],
        "tasks": [{"task_index": n, "task": task} for n, task in enumerate(TASKS)],
    }
    for name, content in (("modality", modality), ("info", info)):
        (folder / "meta" / f"{name}.json").write_text(json.dumps(content))
    for name, lines in tables.items():
        (folder / "meta" / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def write_run(file: Path, model: Path, data: Path, **trainer: Any) -> Path:
    """The YAML of a run on the data set ``toy`` below ``data``; JSON is YAML."""
    run = {
        "run_id": "toy",
        "run_root_dir": "playground",
        "seed": 42,
        "wandb_entity": "nobody",
        "wandb_project": "toy",
        "is_debug": False,
        "framework": {
            "name": "QwenPI",
            "qwenvl": {"base_vlm": str(model), "attn_implementation": "sdpa"},
            "action_model": {
                "action_dim": 3,
                "state_dim": 3,
                "action_horizon": 8,
                "max_seq_len": 64,
                "num_target_vision_tokens": 4,
                "diffusion_model_cfg": {"attention_head_dim": 16, "dropout": 0.0},
            },
        },
        "datasets": {
            "vla_data": {
                "dataset_py": "lerobot_datasets",
                "data_root_dir": str(data),
                "data_mix": "toy",
                "include_state": True,
                "per_device_batch_size": 8,
            }
        },
        "trainer": {
            "max_train_steps": 10,
            "num_warmup_steps": 1,
            "save_interval": 1000,
            "eval_interval": 1000,
            "logging_frequency": 1,
            "learning_rate": {"base": 1e-3, "qwen_vl_interface": 1e-4, "action_model": 1e-3},
            "lr_scheduler_type": "cosine_with_min_lr",
            "scheduler_specific_kwargs": {"min_lr": 1e-5},
            "freeze_modules": "",
            "gradient_clipping": 1.0,
            "gradient_accumulation_steps": 1,
            "optimizer": {"name": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 1e-8},
            **trainer,
        },
    }
    file.write_text(json.dumps(run, indent=1))
    return file


def write_world(root: Path, **trainer: Any) -> Path:
    """A model, a data set and the YAML of a run below ``root``; returns the YAML."""
    import torch
    from starVLA.model.modules.vlm.toy_vl import make_checkpoint

    root = root.absolute()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_checkpoint(root / "Qwen2.5-VL-toy")
    write_dataset(root / "data" / "toy")
    return write_run(root / "toy.yaml", model, root / "data", **trainer)
