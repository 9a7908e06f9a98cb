"""What an evaluation needs whatever the policy is."""

import os
import random
import time
from typing import Any

import numpy as np
import torch
from experiments.robot.openvla_utils import get_vla, get_vla_action

ACTION_DIM = 7
DATE = time.strftime("%Y_%m_%d")
DATE_TIME = time.strftime("%Y_%m_%d-%H_%M_%S")


def set_seed_everywhere(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def _openvla_only(cfg: Any) -> None:
    if cfg.model_family != "openvla":
        raise ValueError(f"`model_family` is {cfg.model_family!r}, and there is only openvla")


def get_model(cfg: Any, wrap_diffusion_policy_for_droid: bool = False) -> Any:
    _openvla_only(cfg)
    return get_vla(cfg)


def get_image_resize_size(cfg: Any) -> int:
    _openvla_only(cfg)
    return 32


def get_action(cfg: Any, model: Any, obs: dict[str, np.ndarray], task_label: str, processor: Any = None) -> np.ndarray:
    _openvla_only(cfg)
    action = get_vla_action(
        model, processor, cfg.pretrained_checkpoint, obs, task_label, cfg.unnorm_key, center_crop=cfg.center_crop
    )
    assert action.shape == (ACTION_DIM,)
    return action


def normalize_gripper_action(action: np.ndarray, binarize: bool = True) -> np.ndarray:
    """From [0, 1] to [-1, 1]."""
    action[..., -1] = 2.0 * action[..., -1] - 1.0
    if binarize:
        action[..., -1] = np.sign(action[..., -1])
    return action


def invert_gripper_action(action: np.ndarray) -> np.ndarray:
    """The data have 1 for open, the environment has -1."""
    action[..., -1] = -action[..., -1]
    return action
