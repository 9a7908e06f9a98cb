"""Small models of both of openvla's layouts around transformers' own Llama, for the probe's tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

PATCHES, SIZE, HIDDEN, LAYERS, VOCABULARY = 4, 8, 32, 5, 97


class Vision(nn.Module):
    """Pixels [B, 3, 8, 8] to P = 4 patches of 16 numbers, with dropout so that training mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 16, SIZE // 2, SIZE // 2)
        self.drop = nn.Dropout(0.5)
        self.featurizer = SimpleNamespace(patch_embed=SimpleNamespace(num_patches=PATCHES))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.drop(self.proj(pixels).flatten(2).transpose(1, 2))


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            attention_dropout=0.3,
            pad_token_id=0,
        )
    )


def multimodal(self: Any, llm: nn.Module, input_ids: Any, attention_mask: Any, pixels: Any, **kwargs: Any) -> Any:
    patches = self.projector(self.vision_backbone(pixels))
    text = llm.get_input_embeddings()(input_ids)
    embeddings = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
    seen = attention_mask.new_ones(patches.shape[:2])
    mask = torch.cat([attention_mask[:, :1], seen, attention_mask[:, 1:]], dim=1)
    return llm(inputs_embeds=embeddings, attention_mask=mask, **kwargs)


class HF(nn.Module):
    """As ``OpenVLAForActionPrediction``: ``.language_model``."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_backbone, self.projector, self.language_model = Vision(), nn.Linear(16, HIDDEN), llama()

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any, labels: Any = None, **kwargs: Any) -> Any:
        if labels is not None:
            ignored = labels.new_full((len(labels), PATCHES), -100)
            kwargs["labels"] = torch.cat([labels[:, :1], ignored, labels[:, 1:]], dim=1)
        return multimodal(self, self.language_model, input_ids, attention_mask, pixel_values, **kwargs)


class Prismatic(nn.Module):
    """As ``PrismaticVLM``: ``.llm_backbone.llm``; its pictures are a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_backbone, self.projector, self.llm_backbone = Vision(), nn.Linear(16, HIDDEN), nn.Module()
        self.llm_backbone.llm = llama()

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any, **kwargs: Any) -> Any:
        pixels = pixel_values["dino"]
        return multimodal(self, self.llm_backbone.llm, input_ids, attention_mask, pixels, **kwargs)


def make(kind: type[nn.Module] = HF, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def batch(samples: int = 3, seed: int = 1) -> Any:
    """A probe batch without a tokenizer: right-padded prompts, instructions of different lengths."""
    from research.probe.hidden_and_mask import ProbeBatch

    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([6 + 2 * (row % 3) for row in range(samples)])
    longest = int(lengths.max())
    attention = torch.arange(longest) < lengths.unsqueeze(1)
    ids = torch.randint(3, VOCABULARY, (samples, longest), generator=generator) * attention
    mask = torch.zeros(samples, PATCHES + longest, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        mask[row, PATCHES + 2 : PATCHES + length - 1] = True
    pixels = torch.randn(samples, 3, SIZE, SIZE, generator=generator)
    return ProbeBatch(ids, attention, pixels, mask, PATCHES + lengths - 1, [f"s{row}" for row in range(samples)])
