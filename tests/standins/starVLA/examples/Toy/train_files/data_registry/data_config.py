"""The toy world's robot."""

from starVLA.dataloader.gr00t_lerobot.datasets import ModalityConfig
from starVLA.dataloader.gr00t_lerobot.embodiment_tags import EmbodimentTag
from starVLA.dataloader.gr00t_lerobot.transform.base import ComposedModalityTransform
from starVLA.dataloader.gr00t_lerobot.transform.state_action import StateActionToTensor, StateActionTransform


class ToyDataConfig:
    embodiment_tag = EmbodimentTag.FRANKA

    def modality_config(self):
        now = [0]
        keys = {
            "video": (now, "video.primary"),
            "state": (now, "state.eef"),
            "action": (list(range(8)), "action.eef"),
            "language": (now, "annotation.human.action.task_description"),
        }
        return {name: ModalityConfig(delta_indices=steps, modality_keys=[key]) for name, (steps, key) in keys.items()}

    def transform(self):
        scaled = StateActionTransform(apply_to=["action.eef"], normalization_modes={"action.eef": "min_max"})
        return ComposedModalityTransform(transforms=[StateActionToTensor(apply_to=["action.eef"]), scaled])


ROBOT_TYPE_CONFIG_MAP = {"toy_robot": ToyDataConfig()}
DATASET_NAMED_MIXTURES = {"toy": [("toy", 1.0, "toy_robot")]}
