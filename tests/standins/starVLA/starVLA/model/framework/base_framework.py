"""Frameworks by name, and from a checkpoint."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch
from starVLA.model.framework.share_tools import dict_to_namespace, read_mode_config
from starVLA.model.tools import FRAMEWORK_REGISTRY
from transformers import PretrainedConfig, PreTrainedModel


def build_framework(cfg: Any) -> Any:
    """The framework ``cfg.framework.name``, once every module of every family has been imported."""
    home = Path(__file__).parent
    for family in (each for each in home.iterdir() if (each / "__init__.py").is_file()):
        for _, name, _ in pkgutil.iter_modules([str(family)]):
            importlib.import_module(f"starVLA.model.framework.{family.name}.{name}")
    name = cfg.framework.name
    if name not in FRAMEWORK_REGISTRY.list():
        raise NotImplementedError(f"no framework {name}: there are {sorted(FRAMEWORK_REGISTRY.list())}")
    return FRAMEWORK_REGISTRY[name](cfg)


class baseframework(PreTrainedModel):
    def __init__(self, hf_config: PretrainedConfig | None = None) -> None:
        super().__init__(hf_config or PretrainedConfig())

    def forward(self, examples: list[dict], **kwargs: Any) -> dict:
        raise NotImplementedError

    def predict_action(self, examples: list[dict], **kwargs: Any) -> dict:
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, pretrained_checkpoint: str, **kwargs: Any) -> Any:
        """The framework of a checkpoint, built from the run's saved configuration and loaded strictly."""
        config, statistics = read_mode_config(pretrained_checkpoint)
        cfg = dict_to_namespace(config)
        cfg.trainer.pretrained_checkpoint = None
        model = build_framework(cfg=cfg)
        model.norm_stats = statistics
        model.load_state_dict(torch.load(pretrained_checkpoint, map_location="cpu"), strict=True)
        return model
