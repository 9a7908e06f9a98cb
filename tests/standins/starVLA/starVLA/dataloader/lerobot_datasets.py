"""The mixture that a run names."""

from __future__ import annotations

from pathlib import Path

from starVLA.dataloader.gr00t_lerobot.datasets import LeRobotMixtureDataset, LeRobotSingleDataset
from starVLA.dataloader.gr00t_lerobot.registry import DATASET_NAMED_MIXTURES, ROBOT_TYPE_CONFIG_MAP


def collate_fn(batch):
    return batch


def make_LeRobotSingleDataset(
    data_root_dir: Path | str,
    data_name: str,
    robot_type: str,
    delete_pause_frame: bool = False,
    data_cfg: dict | None = None,
) -> LeRobotSingleDataset:
    """By the data configuration's own factory where it has one."""
    data_config = ROBOT_TYPE_CONFIG_MAP[robot_type]
    options = {
        "dataset_path": data_root_dir / data_name,
        "modality_configs": data_config.modality_config(),
        "transforms": data_config.transform(),
        "embodiment_tag": data_config.embodiment_tag,
        "video_backend": data_cfg.get("video_backend", "decord") if data_cfg else "torchvision_av",
        "delete_pause_frame": delete_pause_frame,
        "data_cfg": data_cfg,
    }
    if hasattr(data_config, "make_dataset"):
        return data_config.make_dataset(dataset_name=data_name, **options)
    return LeRobotSingleDataset(**options)


def get_vla_dataset(
    data_cfg: dict,
    mode: str = "train",
    balance_dataset_weights: bool = False,
    balance_trajectory_weights: bool = False,
    seed: int = 42,
    **kwargs: dict,
) -> LeRobotMixtureDataset:
    parts = [
        (make_LeRobotSingleDataset(Path(data_cfg.data_root_dir), name, robot, data_cfg=data_cfg), weight)
        for name, weight, robot in DATASET_NAMED_MIXTURES[data_cfg.data_mix]
    ]
    return LeRobotMixtureDataset(
        parts,
        mode=mode,
        balance_dataset_weights=balance_dataset_weights,
        balance_trajectory_weights=balance_trajectory_weights,
        seed=seed,
        data_cfg=data_cfg,
        **kwargs,
    )
