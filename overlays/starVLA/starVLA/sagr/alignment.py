"""Semantic alignment: what the task tokens tell the head, held against what the vision-language model saw."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .precision import at_least_float32


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens [B, L, P] that are no padding (mask [B, L], None: all), float32 [B, P], without a graph."""
    hidden = hidden.detach().float()
    seen = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask.to(hidden)
    return (hidden * seen.unsqueeze(-1)).sum(1) / seen.sum(1, keepdim=True)


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.07) -> Tensor:
    """Symmetric InfoNCE of ``[B,P]`` and ``[B,P]`` by cosine (van den Oord et al. 2018), a scalar.

    A row's positive is the row of the same number, its negatives are all others of this batch, those under the same
    instruction too. The anchor reads the instruction: were those no negatives, the words alone would tell all rows
    apart that have to be, nothing in the geometry would have to be looked at, and a batch under one instruction would
    train nothing. Raises ValueError where the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"InfoNCE needs [B,P] twice, got {list(first.shape)} and {list(second.shape)}")
    one, two = (normalize(at_least_float32(part), dim=-1) for part in (first, second))
    logits = one @ two.T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (cross_entropy(logits, own) + cross_entropy(logits.T, own))
