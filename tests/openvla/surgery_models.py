"""A decoder with openvla's layout in plain torch, and gradient surgery written a second time, by loops in float64."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

HIDDEN, LAYERS, VOCABULARY, PATCHES = 16, 5, 23, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.up, self.down = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor]:
        length = hidden.shape[1]
        weights = torch.ones(length, length, dtype=hidden.dtype, device=hidden.device).tril()
        hidden = hidden + (weights / weights.sum(1, keepdim=True)) @ self.mix(self.norm(hidden))
        return (hidden + self.down(torch.tanh(self.up(self.norm(hidden)))),)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)


class Vision(nn.Module):
    num_patches = PATCHES

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, HIDDEN)


class TinyVLA(nn.Module):
    """``.language_model.model.layers`` as in OpenVLAForActionPrediction. ``between`` is run on each block's output."""

    def __init__(self, seed: int = 0, between: Mapping[int, Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.vision_backbone = Vision()
        self.language_model = nn.Module()
        self.language_model.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.language_model.model = Decoder()
        self.language_model.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.between = dict(between or {})

    @property
    def llm(self) -> nn.Module:
        return self.language_model

    def forward(
        self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, labels: Any = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        llm = self.llm
        text, patches = llm.embed(input_ids), self.vision_backbone.proj(pixel_values)
        hidden = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
        for number, block in enumerate(llm.model.layers):
            hidden = block(hidden)[0]
            if number in self.between:
                hidden = self.between[number](hidden)
        logits = llm.lm_head(llm.model.norm(hidden))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits[:, PATCHES:].flatten(0, 1), labels.flatten())
        return {"logits": logits, "loss": loss}


class TinyPrismatic(TinyVLA):
    """``.llm_backbone.llm.model.layers`` as in PrismaticVLM, with what train.py asks its parts for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.llm_backbone = nn.Module()
        self.llm_backbone.llm = self.language_model
        del self.language_model
        self.llm_backbone.prompt_builder_fn = "builder"
        self.llm_backbone.get_tokenizer = lambda: "tokenizer"
        self.vision_backbone.get_image_transform = lambda: "transform"

    @property
    def llm(self) -> nn.Module:
        return self.llm_backbone.llm


def batch(size: int, seed: int, dtype: torch.dtype = torch.float64, length: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(VOCABULARY, (size, length), generator=generator),
        "pixel_values": torch.randn(size, PATCHES, 4, generator=generator, dtype=torch.float64).to(dtype),
        "labels": torch.randint(VOCABULARY, (size, length), generator=generator),
    }


def bases(layers: Any, fragile: int = 3, plastic: int = 4, seed: int = 5) -> dict[int, Any]:
    """Random orthonormal (Uf, Up) of each layer, float32."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in layers:
        full = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64))[0].float()
        found[layer] = (full[:, :fragile].contiguous(), full[:, fragile : fragile + plastic].contiguous())
    return found


def reference(gradient: torch.Tensor, uf: torch.Tensor, up: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """g_n + beta g_p + gamma g_f in float64, token by token and direction by direction."""
    flat = gradient.double().reshape(-1, gradient.shape[-1])
    rows = []
    for g in flat:
        fragile, plastic = torch.zeros_like(g), torch.zeros_like(g)
        for u in uf.double().T:
            fragile = fragile + u * float(sum(a * b for a, b in zip(u.tolist(), g.tolist(), strict=True)))
        for u in up.double().T:
            plastic = plastic + u * float(sum(a * b for a, b in zip(u.tolist(), g.tolist(), strict=True)))
        rows.append((g - fragile - plastic) + beta * plastic + gamma * fragile)
    return torch.stack(rows).reshape(gradient.shape)


def damped_model(seed: int, basis: Mapping[int, Any], beta: float, gamma: float) -> TinyVLA:
    """The same model with the surgery as an autograd function of its own between the blocks; no hooks."""

    def between(uf: torch.Tensor, up: torch.Tensor) -> Any:
        class Damped(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
                return hidden.clone()

            @staticmethod
            def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
                return reference(gradient, uf, up, beta, gamma).to(gradient.dtype)

        return Damped.apply

    return TinyVLA(seed, {layer: between(*pair) for layer, pair in basis.items()})
