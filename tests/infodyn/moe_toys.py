"""Small mixtures of experts for the tests of the probes, and what they compute by loops over tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ListedMoE(nn.Module):
    """A plain linear gate over a ModuleList, each expert called with its own tokens only."""

    def __init__(self, dim: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(experts))
        self.top_k = top_k
        self.scale = 1.0

    def forward(self, hidden: Tensor) -> Tensor:
        tokens = hidden.reshape(-1, hidden.shape[-1])
        weights, indices = self.gate(tokens).softmax(-1).topk(self.top_k)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            # By choice, then by token: not the tokens' order.
            place, token = torch.where((indices == number).T)
            if len(token):
                out.index_add_(0, token, weights[token, place, None] * expert(self.scale * tokens[token]))
        return out.reshape(hidden.shape)


class Classifier(nn.Module):
    """Tokens through two layers of experts, their mean to a head: ``[B, T, D] -> [B, classes]``."""

    def __init__(self, dim: int = 6, experts: int = 5, top_k: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"moe": ListedMoE(dim, experts, top_k)}) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block["moe"](x)
        return self.head(self.norm(x).mean(1))


def classifier(**sizes: int) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**sizes).double().eval()


def pictures(samples: int, tokens: int = 7, dim: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, tokens, dim, generator=generator, dtype=torch.float64)
    return x, torch.arange(samples) % 3


def batched(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(x.split(size), y.split(size), strict=True)


def chosen_by_loop(logits: Tensor, top_k: int) -> list[list[int]]:
    """The ``top_k`` largest of each row, by sorting Python's own numbers."""
    return [sorted(range(len(row)), key=lambda e: -row[e])[:top_k] for row in logits.tolist()]


def tiny_config(kind: str) -> Any:
    """Of transformers' Qwen3-MoE or Mixtral: two layers, five or four experts, two chosen."""
    from transformers import MixtralConfig, Qwen3MoeConfig

    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts_per_tok": 2,
        "head_dim": 8,
    }
    if kind == "mixtral":
        return MixtralConfig(**sizes, num_local_experts=4)
    return Qwen3MoeConfig(**sizes, moe_intermediate_size=12, num_experts=5, norm_topk_prob=True)


def tiny_language_model(kind: str) -> Any:
    """In float64, in evaluation, experts one after another, with gates that are not all alike."""
    from transformers import MixtralForCausalLM, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    model = (MixtralForCausalLM if kind == "mixtral" else Qwen3MoeForCausalLM)(tiny_config(kind))
    for layer in model.model.layers:
        nn.init.normal_(layer.mlp.gate.weight)
        for parameter in layer.mlp.experts.parameters():
            nn.init.normal_(parameter, std=0.5)
    model.set_experts_implementation("eager")
    return model.double().eval()


def texts(samples: int, tokens: int = 9) -> dict[str, Tensor]:
    """Token ids with padding on the left or the right, of one to all tokens; labels are -100 there."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 50, (samples, tokens), generator=generator)
    mask = torch.zeros_like(ids)
    for row in range(samples):
        length = 2 + row % (tokens - 1)
        if row % 2:
            mask[row, :length] = 1
        else:
            mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def fused_expert_by_hand(experts: Any, expert: int, x: Tensor) -> Tensor:
    """Expert ``expert`` of transformers' fused ones on ``x [n, D]``, from its weights."""
    gate, up = (x @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ experts.down_proj[expert].T
