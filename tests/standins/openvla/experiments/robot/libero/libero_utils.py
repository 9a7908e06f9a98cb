"""Between the evaluation and the environment."""

import math
import os
from typing import Any, TextIO

import numpy as np
from experiments.robot.robot_utils import DATE, DATE_TIME
from libero.libero import get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from PIL import Image


def get_libero_env(task: Any, model_family: str, resolution: int = 256) -> tuple[OffScreenRenderEnv, str]:
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=resolution, camera_widths=resolution)
    env.seed(0)
    return env, task.language


def get_libero_dummy_action(model_family: str) -> list[float]:
    return [0, 0, 0, 0, 0, 0, -1]


def get_libero_image(obs: dict[str, np.ndarray], resize_size: int | tuple[int, int]) -> np.ndarray:
    """The camera's picture, turned by 180 degrees to stand as in the training data."""
    size = (resize_size, resize_size) if isinstance(resize_size, int) else resize_size
    image = Image.fromarray(np.ascontiguousarray(obs["agentview_image"][::-1, ::-1]))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def save_rollout_video(
    rollout_images: list[np.ndarray], idx: int, success: bool, task_description: str, log_file: TextIO | None = None
) -> str:
    """The frames side by side as one picture."""
    rollout_dir = f"./rollouts/{DATE}"
    os.makedirs(rollout_dir, exist_ok=True)
    path = f"{rollout_dir}/{DATE_TIME}--episode={idx}--success={success}--task={task_description.replace(' ', '_')}.png"
    if rollout_images:
        Image.fromarray(np.concatenate(rollout_images, axis=1)).save(path)
    if log_file is not None:
        log_file.write(f"saved the frames at {path}\n")
    return path


def quat2axisangle(quat: np.ndarray) -> np.ndarray:
    """A rotation (x, y, z, w) as its axis [3] times the angle in radians."""
    w = float(np.clip(quat[3], -1.0, 1.0))
    length = math.sqrt(1.0 - w * w)
    return np.zeros(3) if math.isclose(length, 0.0) else quat[:3] * 2.0 * math.acos(w) / length
