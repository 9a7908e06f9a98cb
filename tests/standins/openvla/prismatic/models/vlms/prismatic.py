"""The model on the path that trains with FSDP: the same three parts as the hub's class, under other names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp.wrap import _module_wrap_policy, _or_policy

from prismatic.extern.hf.modeling_prismatic import (
    PrismaticCausalLMOutputWithPast,
    PrismaticProjector,
    multimodal_forward,
)
from prismatic.models.backbones.llm import LLMBackbone
from prismatic.models.backbones.llm.prompting import PromptBuilder
from prismatic.models.backbones.vision import VisionBackbone

TRAINED = {
    "vla-full-train": ["vision_backbone", "projector", "llm_backbone"],
    "vla-train": ["projector", "llm_backbone"],
    "vla-last-layer-train": ["llm_backbone"],
    "vla-sandwich-train": ["vision_backbone", "projector", "llm_backbone"],
}


class PrismaticVLM(nn.Module):
    def __init__(
        self,
        model_id: str,
        vision_backbone: VisionBackbone,
        llm_backbone: LLMBackbone,
        projector: PrismaticProjector,
        norm_stats: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model_family, self.model_id, self.norm_stats = "prismatic", model_id, norm_stats
        self.vision_backbone, self.llm_backbone, self.projector = vision_backbone, llm_backbone, projector
        self.all_module_keys = ["vision_backbone", "llm_backbone", "projector"]
        self.trainable_module_keys: list[str] = []

    def freeze_backbones(self, stage: str) -> None:
        if stage not in TRAINED:
            raise ValueError(f"stage {stage!r} is none of {sorted(TRAINED)}")
        self.trainable_module_keys = TRAINED[stage]
        for key in self.all_module_keys:
            getattr(self, key).requires_grad_(key in TRAINED[stage])
        if stage in ("vla-last-layer-train", "vla-sandwich-train"):
            self.llm_backbone.requires_grad_(False)
            for module in self.llm_backbone.last_layer_finetune_modules:
                module.requires_grad_(True)

    def get_prompt_builder(self, system_prompt: str | None = None) -> PromptBuilder:
        return self.llm_backbone.prompt_builder_fn(self.model_family, system_prompt=system_prompt)

    def get_fsdp_wrapping_policy(self) -> Callable[..., Any]:
        own = partial(_module_wrap_policy, module_classes={PrismaticProjector})
        backbones = (self.vision_backbone, self.llm_backbone)
        return partial(_or_policy, policies=[*(each.get_fsdp_wrapping_policy() for each in backbones), own])

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: dict[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        multimodal_indices: torch.Tensor | None = None,
    ) -> PrismaticCausalLMOutputWithPast:
        if pixel_values is None or input_ids is None:
            raise ValueError("the stand-in needs both `input_ids` and `pixel_values`")
        patches = self.projector(self.vision_backbone(pixel_values))
        return multimodal_forward(
            self.llm_backbone.llm, input_ids, attention_mask, patches, labels, output_hidden_states
        )
