"""For every mixture that starVLA knows, one named ``..._next`` whose samples have the next frame for SA-GR Flow.

Registries are read by the alphabet, and this one last, so that all others are there.
"""

from starVLA.dataloader.gr00t_lerobot import registry
from starVLA.dataloader.gr00t_lerobot.datasets import LeRobotSingleDataset
from starVLA.sagr.data.next_frame import twins

ROBOT_TYPE_CONFIG_MAP, DATASET_NAMED_MIXTURES = twins(
    registry.ROBOT_TYPE_CONFIG_MAP, registry.DATASET_NAMED_MIXTURES, LeRobotSingleDataset
)
