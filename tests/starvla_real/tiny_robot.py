"""The tiny data set in starVLA's registry of data configurations: for one process, without a file in the checkout."""

from __future__ import annotations

import importlib.util
from typing import Any

import tiny_data


class TinyRobot:
    """What a `data_registry` module defines for a robot."""

    def __init__(self) -> None:
        from starVLA.dataloader.gr00t_lerobot.embodiment_tags import EmbodimentTag

        self.embodiment_tag = EmbodimentTag.FRANKA

    def modality_config(self) -> dict[str, Any]:
        from starVLA.dataloader.gr00t_lerobot.datasets import ModalityConfig

        return {
            "video": ModalityConfig(delta_indices=[0], modality_keys=["video.primary_image"]),
            "state": ModalityConfig(delta_indices=[0], modality_keys=["state.eef"]),
            "action": ModalityConfig(delta_indices=list(range(tiny_data.HORIZON)), modality_keys=["action.eef"]),
            "language": ModalityConfig(delta_indices=[0], modality_keys=["annotation.human.action.task_description"]),
        }

    def transform(self) -> Any:
        from starVLA.dataloader.gr00t_lerobot.transform.base import ComposedModalityTransform
        from starVLA.dataloader.gr00t_lerobot.transform.state_action import StateActionToTensor, StateActionTransform

        modes = {"action.eef": "min_max"}
        return ComposedModalityTransform(
            transforms=[
                StateActionToTensor(apply_to=["action.eef"]),
                StateActionTransform(apply_to=["action.eef"], normalization_modes=modes),
            ]
        )


def register() -> None:
    """Adds the robot and a mixture of the set alone to upstream's registry, where the training script looks; in a
    grafted checkout also their twins with the next frame."""
    from starVLA.dataloader.gr00t_lerobot import registry

    robots, mixtures = {tiny_data.ROBOT: TinyRobot()}, {tiny_data.MIXTURE: [(tiny_data.NAME, 1.0, tiny_data.ROBOT)]}
    if importlib.util.find_spec("starVLA.sagr") is not None:
        from starVLA.dataloader.gr00t_lerobot.datasets import LeRobotSingleDataset
        from starVLA.sagr.data.next_frame import twins

        more_robots, more_mixtures = twins(robots, mixtures, LeRobotSingleDataset)
        robots, mixtures = robots | more_robots, mixtures | more_mixtures
    registry.ROBOT_TYPE_CONFIG_MAP.update(robots)
    registry.DATASET_NAMED_MIXTURES.update(mixtures)
