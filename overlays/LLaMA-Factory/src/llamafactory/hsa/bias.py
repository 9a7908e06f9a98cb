"""The attention bias of HSA, as one additive mask.

With the key's type t(j) and the distance d = |i - j| in tokens:

    GLOBAL_CONDITION    B[i, j] = 0
    LANDMARK            B[i, j] = -lambda_landmark * d
    NOISE               B[i, j] = -lambda_noise * d     for d <= window, masked beyond

The policy ``hierarchical`` also masks NOISE keys for queries that are not NOISE themselves.
"""

from dataclasses import dataclass

import torch

from .types import SemanticType


@dataclass(frozen=True)
class HSARule:
    """Policy, slopes (score units per token) and window (tokens) of the bias."""

    policy: str = "distance"
    lambda_landmark: float = 0.001
    lambda_noise: float = 0.5
    window: int = 50

    @property
    def hides_noise(self) -> bool:
        return self.policy == "hierarchical"


def _by_distance(values: torch.Tensor, start: int, queries: int, keys: int) -> torch.Tensor:
    """[Q, K] view of ``values[|i - j|]`` for queries from ``start`` and keys from 0, without a matrix of distances."""
    diagonals = torch.arange(start - keys + 1, start + queries, device=values.device).abs()
    return values[diagonals].unfold(0, keys, 1).flip(1)


def additive_mask(
    allowed: torch.Tensor,
    key_types: torch.Tensor,
    query_types: torch.Tensor,
    rule: HSARule,
    start: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Mask and bias in one tensor [B, 1, Q, K] of ``dtype``, to be added to the attention scores.

    Values are computed in float64 per distance and rounded once. A masked entry is ``finfo(dtype).min``, never less,
    so nothing overflows to -inf. A query that may see no key at all (padding) sees itself.

    Args:
        allowed: bool [B, 1, Q, K], True where the model's own mask (causal, padding, packing) lets a query see a key.
        key_types: int [B, K]; query_types: int [B, Q]: semantic types.
        rule: policy, slopes and window.
        start: index of the first query on the axis of the keys (0 unless a KV cache holds earlier keys).
        dtype: floating dtype of the result.
    """
    queries, keys = allowed.shape[-2:]
    lowest = torch.finfo(dtype).min
    distance = torch.arange(max(start + queries, keys), device=allowed.device, dtype=torch.float64)
    landmark = (-rule.lambda_landmark * distance).clamp(min=lowest).to(dtype)
    noise = (-rule.lambda_noise * distance).clamp(min=lowest).to(dtype)
    noise[rule.window + 1 :] = lowest

    is_landmark = (key_types == SemanticType.LANDMARK)[:, None, None, :]
    is_noise = (key_types == SemanticType.NOISE)[:, None, None, :]
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    bias = torch.where(is_landmark, _by_distance(landmark, start, queries, keys), zero)
    bias = torch.where(is_noise, _by_distance(noise, start, queries, keys), bias)
    if rule.hides_noise:
        sees_noise = (query_types == SemanticType.NOISE)[:, None, :, None]
        bias.masked_fill_(is_noise & ~sees_noise, lowest)

    bias.masked_fill_(~allowed, lowest)
    blind = bias.amax(-1) == lowest
    itself = bias.diagonal(offset=start, dim1=-2, dim2=-1)
    itself.masked_fill_(blind[..., : itself.shape[-1]], 0.0)
    return bias
