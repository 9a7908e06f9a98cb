"""The vision-language model as frameworks see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .toy_vl import ToyProcessor, ToyVLForConditionalGeneration


class _QWen_VL_Interface(nn.Module):
    def __init__(self, config: Any = None, **kwargs: Any) -> None:
        super().__init__()
        folder = config.framework.get("qwenvl", {}).get("base_vlm")
        self.model = ToyVLForConditionalGeneration.from_pretrained(folder)
        self.processor = ToyProcessor.from_pretrained(folder)
        self.config = config

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return self.model(input_ids=input_ids, **kwargs)

    def build_qwenvl_inputs(self, images, instructions, solutions=None, **kwargs):
        """Token ids and attention mask [B, L], padded on the left, and the pictures of the whole batch."""
        assert len(images) == len(instructions)
        texts, data = [], self.config.datasets.vla_data
        for shown, said in zip(images, instructions, strict=True):
            if "CoT_prompt" in data:
                said = data.get("CoT_prompt", "").replace("{instruction}", said)
            content = [*({"type": "image", "image": each} for each in shown), {"type": "text", "text": said}]
            messages = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        pictures = [picture for shown in images for picture in shown]
        made = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
        return made.to(self.model.device)
