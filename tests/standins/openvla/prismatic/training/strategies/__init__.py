from .base_strategy import TrainingStrategy
from .fsdp import FSDPStrategy

__all__ = ["FSDPStrategy", "TrainingStrategy"]
