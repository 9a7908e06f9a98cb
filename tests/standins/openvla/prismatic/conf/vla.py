"""Training recipes of the training script, chosen with ``--vla.type``."""

from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from draccus import ChoiceRegistry


@dataclass
class VLAConfig(ChoiceRegistry):
    vla_id: str
    base_vlm: str | Path
    freeze_vision_backbone: bool
    freeze_llm_backbone: bool
    unfreeze_last_llm_layer: bool
    data_mix: str
    shuffle_buffer_size: int
    epochs: int
    max_steps: int | None
    expected_world_size: int
    global_batch_size: int
    per_device_batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    lr_scheduler_type: str
    warmup_ratio: float
    train_strategy: str
    enable_gradient_checkpointing: bool = True
    enable_mixed_precision_training: bool = True
    reduce_in_full_precision: bool = True


@dataclass
class Exp_DinoSigLIP_224px_Bridge(VLAConfig):
    """The toy world's downstream task on two processes."""

    vla_id: str = "prism-dinosiglip-224px+mx-bridge"
    base_vlm: str | Path = "toy"
    freeze_vision_backbone: bool = False
    freeze_llm_backbone: bool = False
    unfreeze_last_llm_layer: bool = False
    data_mix: str = "libero_spatial_no_noops"
    shuffle_buffer_size: int = 1_000
    epochs: int = 1
    max_steps: int | None = None
    expected_world_size: int = 2
    global_batch_size: int = 8
    per_device_batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "constant"
    warmup_ratio: float = 0.0
    train_strategy: str = "fsdp-shard-grad-op"


@unique
class VLARegistry(Enum):
    DINOSIGLIP_224PX_MX_BRIDGE = Exp_DinoSigLIP_224px_Bridge

    @property
    def vla_id(self) -> str:
        return self.value.vla_id


for recipe in VLARegistry:
    VLAConfig.register_subclass(recipe.vla_id, recipe.value)
