"""Configurations of frameworks: defaults, older names, what a checkpoint was trained with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from starVLA.training.trainer_utils.config_tracker import AccessTrackedConfig


def dict_to_namespace(d: dict[str, Any]) -> DictConfig:
    return OmegaConf.create(d)


def merge_framework_config(default_config_cls: type, cfg: Any) -> Any:
    """``cfg.framework`` over the defaults of a dataclass, in place; keys that the defaults lack are kept."""
    node = cfg.unwrap() if isinstance(cfg, AccessTrackedConfig) else cfg
    defaults = OmegaConf.create(dataclasses.asdict(default_config_cls()))
    node.framework = OmegaConf.merge(defaults, node.get("framework", {}))
    return cfg


def populate_layerwise_dit_cfg(cfg: Any, *, dit_hidden_dim: int, num_dit_layers: int) -> Any:
    """Writes the shape of the head's transformer, which follows from the vision-language model."""
    shape = cfg.framework.action_model.diffusion_model_cfg
    head = shape.get("attention_head_dim") or 64
    shape.attention_head_dim, shape.num_attention_heads = head, dit_hidden_dim // head
    shape.num_layers, shape.input_embedding_dim = num_dit_layers, dit_hidden_dim
    shape.cross_attention_dim = dit_hidden_dim
    return shape


def apply_config_compat(cfg: Any, *, strict: bool = False) -> Any:
    """The chunk's length by its older name too."""
    length = OmegaConf.select(cfg, "framework.action_model.action_horizon", default=None)
    if length is not None:
        OmegaConf.update(cfg, "framework.action_model.future_action_window_size", length - 1, force_add=True)
    OmegaConf.update(cfg, "version_id", "0.21", force_add=True)
    return cfg


def read_mode_config(pretrained_checkpoint: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.yaml`` and ``dataset_statistics.json`` of the run that a checkpoint's folder lies in."""
    run = Path(pretrained_checkpoint).parents[1]
    config = apply_config_compat(OmegaConf.load(run / "config.yaml"))
    statistics = json.loads((run / "dataset_statistics.json").read_text())
    return OmegaConf.to_container(config, resolve=True), statistics
