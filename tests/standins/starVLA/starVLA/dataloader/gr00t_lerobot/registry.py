"""Data configurations by robot type and mixtures by name, from ``examples/*/train_files/data_registry/``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from starVLA.dataloader.gr00t_lerobot.embodiment_tags import EmbodimentTag

__all__ = ["DATASET_NAMED_MIXTURES", "ROBOT_TYPE_CONFIG_MAP", "EmbodimentTag", "discover_and_merge"]

ROBOT_TYPE_CONFIG_MAP: dict = {}
DATASET_NAMED_MIXTURES: dict = {}


def discover_and_merge() -> None:
    root = Path(__file__).resolve().parents[3]
    for file in sorted(root.glob("examples/*/train_files/data_registry/data_config.py")):
        name = f"_data_registry_{file.parents[2].name}.data_config"
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        ROBOT_TYPE_CONFIG_MAP.update(getattr(module, "ROBOT_TYPE_CONFIG_MAP", {}))
        DATASET_NAMED_MIXTURES.update(getattr(module, "DATASET_NAMED_MIXTURES", {}))


discover_and_merge()
