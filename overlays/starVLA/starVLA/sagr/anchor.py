"""Semantic anchor: what the instruction names, read out of the geometry.

Learned slots first attend to the instruction's tokens, so that each becomes a question, and then to the geometry
tokens, so that each becomes an answer: a fixed number of task tokens for an instruction of any length. Both are
cross-attention with the norm in front (Vaswani et al. 2017; slots as in Perceiver IO, Jaegle et al. 2021). Only valid
positions take part: what stands at padded ones, NaN included, changes nothing, and neither does their number.

The instruction's tokens come as bare embeddings, which know nothing of their order: their keys get sinusoidal
positions, so that "the cup on the bowl" asks for something else than "the bowl on the cup". Geometry tokens hold their
place already.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .precision import at_least_float32


class Anchored(NamedTuple):
    """tokens [B, Ns, dim]; attention [B, Ns, Ng], mean over heads, rows sum to one, or ``None``. Both float32 at least:
    what guidance and replanning read is small differences of tokens, which bfloat16 would round away."""

    tokens: Tensor
    attention: Tensor | None


class SemanticAnchor(nn.Module):
    """Task tokens from an instruction and geometry tokens.

    The tokens leave through a layer norm without weights: their scale is fixed, so no loss on predicted tokens can be
    lowered by shrinking them.
    """

    def __init__(
        self, text_dim: int, geometry_dim: int, dim: int, slots: int = 16, heads: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if slots < 1:
            raise ValueError(f"framework.sagr.anchor.slots = {slots}: the anchor needs at least one slot")
        self.slots = nn.Parameter(torch.randn(slots, dim) * dim**-0.5)
        self.read_text = CrossAttention(dim, text_dim, heads, dropout)
        self.read_geometry = CrossAttention(dim, geometry_dim, heads, dropout)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.out = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor,
        geometry: Tensor,
        geometry_mask: Tensor | None = None,
        return_attention: bool = False,
    ) -> Anchored:
        """text [B, L, text_dim], text_mask [B, L] bool or 0/1, geometry [B, Ng, geometry_dim], geometry_mask alike.

        Raises ``ValueError`` for a sample without one valid text or geometry token (one host synchronisation for
        both), and for shapes or masks that do not fit.
        """
        if text.shape[0] != geometry.shape[0]:
            raise ValueError(
                f"{text.shape[0]} samples of text and {geometry.shape[0]} of geometry: they must be the same"
            )
        text_mask = as_mask(text_mask, text, "text")
        geometry_mask = as_mask(geometry_mask, geometry, "geometry")
        refuse_empty(instruction=text_mask, geometry=geometry_mask)
        slots = self.slots.expand(text.shape[0], -1, -1)
        asked, _ = self.read_text(slots, text, text_mask, sinusoids(text_mask, text))
        found, attention = self.read_geometry(slots + asked, geometry, geometry_mask)
        tokens = slots + asked + found
        tokens = self.out(at_least_float32(tokens) + at_least_float32(self.mlp(tokens)))
        return Anchored(tokens, attention.mean(1) if return_attention else None)


class CrossAttention(nn.Module):
    """Multi-head attention from ``dim`` wide queries to ``context_dim`` wide tokens, layer norms in front of both."""

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(
                f"framework.sagr.anchor.heads = {heads} does not divide the token width {dim}: choose one that does"
            )
        self.heads = heads
        self.norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(context_dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key, self.value = nn.Linear(context_dim, dim, bias=False), nn.Linear(context_dim, dim, bias=False)
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(
                linear.weight
            )  # scores of unit spread; the default's are a third of it, near uniform
        self.project = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query: Tensor, context: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """query [B, Nq, dim], context [B, Nc, context_dim], mask [B, Nc] bool with a True in each row; positions
        [B, Nc, context_dim] are added to what the keys are made of, behind the norm, which gives both their scale.

        Returns [B, Nq, dim] and the weights [B, heads, Nq, Nc] before dropout, float32 at least, exactly 0 where
        masked.
        """
        # Zeros instead of what the padding holds: a weight of 0 times NaN would still be NaN, forward and backward.
        context = context.masked_fill(~mask.unsqueeze(-1), 0).to(self.key.weight.dtype)
        context = self.context_norm(context)
        placed = context if positions is None else context + positions.to(context.dtype)
        q, k, v = self._split(self.query(self.norm(query))), self._split(self.key(placed)), self.value(context)
        # bfloat16 logits have steps of 0.06 at 10: scores and softmax are float32 at least, whatever autocast says.
        with torch.autocast(q.device.type, enabled=False):
            scores = at_least_float32(q) @ at_least_float32(k).transpose(-1, -2) * q.shape[-1] ** -0.5
            weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        read = self.dropout(weights).to(v.dtype) @ self._split(v)
        return self.project(read.transpose(1, 2).flatten(2)), weights

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def sinusoids(mask: Tensor, tokens: Tensor) -> Tensor:
    """Sines, then cosines, of each token's place among the valid ones (Vaswani et al. 2017, 3.5).

    mask [B, N] bool, tokens [B, N, width]: the result has their shape, float32 at least. Padding is not counted, so a
    place is the same whether padding stands in front or behind.
    """
    place = (mask.cumsum(1) - 1).to(torch.promote_types(tokens.dtype, torch.float32)).unsqueeze(-1)
    half = (tokens.shape[-1] + 1) // 2
    angle = place * torch.exp(torch.arange(half).to(place) * (-math.log(1e4) / half))
    return torch.cat([angle.sin(), angle.cos()], -1)[..., : tokens.shape[-1]]


def as_mask(mask: Tensor | None, tokens: Tensor, name: str) -> Tensor:
    """The mask [B, N] of ``tokens`` [B, N, D] as bool; ``None`` means that all are valid.

    Raises ``ValueError`` for a mask of another shape, and for an additive one (0 and -inf), which would read inverted.
    """
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"{name} mask {tuple(mask.shape)} does not fit {name} tokens {tuple(tokens.shape)}")
    if mask.is_floating_point():
        raise ValueError(f"{name} mask is {mask.dtype}: give bool or 0/1 integers, True where a token is valid")
    return mask.to(tokens.device).bool()


REMEDIES = {
    "instruction": "give every example a non-empty 'lang'",
    "geometry": "give every example a depth map with valid pixels, or set framework.sagr.geometry.backend to none",
}


def refuse_empty(**masks: Tensor) -> None:
    """Raise ``ValueError`` naming the samples whose mask [B, N] has no True; one host synchronisation for all masks."""
    empty = torch.stack([~mask.any(1) for mask in masks.values()]).tolist()
    for name, flags in zip(masks, empty, strict=True):
        samples = [i for i, flag in enumerate(flags) if flag]
        if samples:
            raise ValueError(f"no valid {name} token in sample(s) {samples} of the batch: {REMEDIES[name]}")
