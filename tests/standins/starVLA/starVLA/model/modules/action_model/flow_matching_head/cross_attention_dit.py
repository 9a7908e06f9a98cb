"""A small diffusion transformer: every block attends to a context of its own, and to nothing else."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def sinusoids(t: torch.Tensor, width: int) -> torch.Tensor:
    """[B] to [B, width]."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimestepEncoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.mlp = width, nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.mlp(sinusoids(timesteps, self.width).to(self.mlp[0].weight.dtype))


class BasicTransformerBlock(nn.Module):
    """Scaled and shifted by the time. The tokens do not see each other: upstream's head hands every block a context,
    and a block that is given one attends to that alone.
    """

    def __init__(self, width: int, context: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.modulation = nn.Linear(width, 2 * width)
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_kv = nn.Linear(context, 2 * width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        scale, shift = self.modulation(F.silu(temb))[:, None].chunk(2, dim=-1)
        normed = self.norm1(hidden_states) * (1 + scale) + shift
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.to_q(normed), *self.to_kv(encoder_hidden_states).chunk(2, dim=-1))
        )
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        hidden_states = hidden_states + self.to_out(attended.transpose(1, 2).flatten(2))
        return hidden_states + self.ff(self.norm2(hidden_states))


class DiT(nn.Module):
    def __init__(
        self,
        num_attention_heads: int,
        attention_head_dim: int,
        num_layers: int,
        cross_attention_dim: int,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.inner_dim = num_attention_heads * attention_head_dim
        self.timestep_encoder = TimestepEncoder(self.inner_dim)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(self.inner_dim, cross_attention_dim, num_attention_heads, dropout)
            for _ in range(num_layers)
        )
