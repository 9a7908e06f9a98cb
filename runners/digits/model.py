"""A small vision transformer whose perceptrons are mixtures of experts."""

from __future__ import annotations

import torch
from infodyn.memory_gaussian_moe import MemoryGaussianMoELayer
from torch import Tensor, nn
from torch.nn import functional as F

DIM, HEADS, BLOCKS, EXPERTS, TOP_K, HIDDEN = 32, 4, 2, 8, 2, 64
PATCH, CLASSES = 4, 10


class LinearGate(nn.Module):
    """softmax(W x), then top-k, without renormalising: the rule of Qwen3-MoE's router, which returns the same three."""

    def __init__(self, dim: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = experts, top_k
        self.weight = nn.Parameter(torch.randn(experts, dim) * dim**-0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[N, D]`` -> probabilities ``[N, E]``, weights ``[N, k]``, indices ``[N, k]``."""
        probabilities = (tokens @ self.weight.T).softmax(-1)
        weights, indices = probabilities.topk(self.top_k, dim=-1)
        return probabilities, weights, indices


class Block(nn.Module):
    """Self-attention and experts, pre-norm, ``[B, T, DIM] -> [B, T, DIM]``."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_experts = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.mlp = MemoryGaussianMoELayer(DIM, HIDDEN, EXPERTS, TOP_K, gate=LinearGate(DIM, EXPERTS, TOP_K))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_experts(x))


class DigitTransformer(nn.Module):
    """Images ``[B, 8, 8]`` -> logits ``[B, 10]``. Gates are linear; ``use_gaussian_routing`` makes them Gaussian."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, DIM)
        self.position = nn.Parameter(0.02 * torch.randn((8 // PATCH) ** 2, DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        x = self.embed(patches) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
