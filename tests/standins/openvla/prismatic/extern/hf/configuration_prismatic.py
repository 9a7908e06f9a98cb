"""Configurations of the stand-in, under the names that the hub's files have."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PretrainedConfig


class PrismaticConfig(PretrainedConfig):
    model_type = "prismatic"
    is_composition = False

    def __init__(
        self,
        vision_backbone_id: str = "dinosiglip-vit-so-224px",
        llm_backbone_id: str = "llama2-7b-pure",
        arch_specifier: str = "no-align+fused-gelu-mlp",
        image_sizes: list[int] | None = None,
        text_config: dict[str, Any] | None = None,
        llm_max_length: int = 2048,
        pad_token_id: int = 32000,
        pad_to_multiple_of: int = 64,
        **kwargs: Any,
    ) -> None:
        self.vision_backbone_id, self.llm_backbone_id = vision_backbone_id, llm_backbone_id
        self.arch_specifier = arch_specifier
        self.image_sizes = list(image_sizes or (32, 32))
        self.text_config = LlamaConfig(**(text_config or {}))
        self.llm_max_length = llm_max_length
        self.pad_token_id, self.pad_to_multiple_of = pad_token_id, pad_to_multiple_of
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class OpenVLAConfig(PrismaticConfig):
    model_type = "openvla"

    def __init__(self, norm_stats: dict[str, Any] | None = None, n_action_bins: int = 256, **kwargs: Any) -> None:
        self.norm_stats, self.n_action_bins = norm_stats, n_action_bins
        super().__init__(**kwargs)
