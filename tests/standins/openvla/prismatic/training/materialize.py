"""Training strategies by name."""

from __future__ import annotations

from typing import Any

from prismatic.models.vlms import PrismaticVLM
from prismatic.training.strategies import FSDPStrategy, TrainingStrategy

TRAIN_STRATEGIES: dict[str, dict[str, Any]] = {
    "fsdp-shard-grad-op": {"cls": FSDPStrategy, "kwargs": {"sharding_strategy": "shard-grad-op"}},
    "fsdp-full-shard": {"cls": FSDPStrategy, "kwargs": {"sharding_strategy": "full-shard"}},
}


def get_train_strategy(train_strategy: str, vlm: PrismaticVLM, device_id: int, **options: Any) -> TrainingStrategy:
    if train_strategy not in TRAIN_STRATEGIES:
        raise ValueError(f"train strategy {train_strategy!r} is none of {sorted(TRAIN_STRATEGIES)}")
    strategy = TRAIN_STRATEGIES[train_strategy]
    return strategy["cls"](vlm=vlm, device_id=device_id, **options, **strategy["kwargs"])
