"""Where task tokens enter the policy: the head's cross-attention context becomes [feedback, task, vision-language].

With the anchor, task tokens are what the instruction names in the geometry. Without it they are the masked mean of all
geometry tokens, one token whatever the instruction says: the baseline that the anchor replaces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .anchor import Anchored, SemanticAnchor, as_mask, refuse_empty
from .precision import at_least_float32


class FusionModule(nn.Module):
    """Task tokens [B, Ns, dim] from text and geometry, and their place in every layer's context.

    ``context_dim`` is the width of the head's cross-attention context. ``self.slots`` is Ns: 1 without the anchor.
    ``feedback_scale`` is ``feedback_context_scale``; ``add_feedback`` is the second half of ``causal_feedback_gate``:
    feedback tokens, which are gated where they are made, are also added to the task tokens.
    """

    def __init__(
        self,
        text_dim: int,
        geometry_dim: int,
        dim: int,
        context_dim: int,
        slots: int = 16,
        heads: int = 8,
        dropout: float = 0.0,
        anchor: bool = True,
        feedback_scale: float = 1.0,
        add_feedback: bool = False,
    ) -> None:
        super().__init__()
        self.anchor = SemanticAnchor(text_dim, geometry_dim, dim, slots, heads, dropout) if anchor else None
        self.pool = None if anchor else MeanPooling(geometry_dim, dim)
        self.slots = slots if anchor else 1
        self.project = nn.Linear(dim, context_dim)
        self.feedback_scale, self.add_feedback = feedback_scale, add_feedback

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor,
        geometry: Tensor,
        geometry_mask: Tensor | None = None,
        return_attention: bool = False,
    ) -> Anchored:
        """text [B, L, text_dim], text_mask [B, L], geometry [B, Ng, geometry_dim], geometry_mask [B, Ng] or ``None``.

        Raises ``ValueError`` as ``SemanticAnchor.forward`` does. Without the anchor the text is not looked at, and the
        attention is the mean's: equal over the valid tokens.
        """
        if self.pool is not None:
            return self.pool(geometry, geometry_mask, return_attention)
        return self.anchor(text, text_mask, geometry, geometry_mask, return_attention)

    def context(
        self,
        vl_embs_list: list[Tensor],
        mask: Tensor | None,
        tokens: Tensor,
        feedback: Tensor | None = None,
        feedback_valid: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Every layer's context [B, Kf + Ns + L, context_dim], and its mask, or ``None`` where no position is masked.

        vl_embs_list: one [B, L, context_dim] per layer; mask [B, L] or ``None``; tokens [B, Ns, dim]; feedback
        [B, Kf, context_dim]; feedback_valid [B] bool: rows that are False do not see their feedback tokens at all, so
        they are what they would be without feedback. Task tokens are projected once and cast to each layer's dtype.
        Raises ``ValueError`` for a batch or width that does not fit.
        """
        self._check(vl_embs_list, tokens, feedback)
        if mask is not None:
            mask = as_mask(mask, vl_embs_list[0], "vision-language")
        front = self.project(tokens.to(self.project.weight.dtype))
        front_mask = torch.ones(front.shape[:2], dtype=torch.bool, device=front.device)
        if feedback is not None:
            shown = torch.ones_like(front_mask[:, :1]) if feedback_valid is None else feedback_valid.bool().view(-1, 1)
            feedback = feedback.to(front.dtype).masked_fill(~shown.unsqueeze(-1), 0) * self.feedback_scale
            if self.add_feedback:
                front = front + feedback.mean(1, keepdim=True)
            front = torch.cat([feedback, front], 1)
            front_mask = torch.cat([shown.expand(-1, feedback.shape[1]), front_mask], 1)
        if mask is None and feedback_valid is not None:
            mask = torch.ones(vl_embs_list[0].shape[:2], dtype=torch.bool, device=front.device)
        if mask is not None:
            mask = torch.cat([front_mask, mask], 1)
        return [torch.cat([front.to(layer.dtype), layer], 1) for layer in vl_embs_list], mask

    def _check(self, vl_embs_list: list[Tensor], tokens: Tensor, feedback: Tensor | None) -> None:
        width = self.project.out_features
        given = {"vision-language": vl_embs_list[0], "feedback": feedback}
        for name, value in given.items():
            if value is not None and (value.shape[0] != tokens.shape[0] or value.shape[2] != width):
                raise ValueError(
                    f"{name} tokens {tuple(value.shape)} do not fit {tokens.shape[0]} samples of task tokens and a "
                    f"context width of {width}: repeat both for the diffusion steps or neither, and build the module "
                    "with the head's cross-attention width"
                )


class MeanPooling(nn.Module):
    """The masked mean of the geometry tokens as the one task token [B, 1, dim], at the anchor's fixed scale."""

    def __init__(self, geometry_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(geometry_dim)
        self.project = nn.Linear(geometry_dim, dim)
        self.out = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, geometry: Tensor, mask: Tensor | None = None, return_attention: bool = False) -> Anchored:
        """geometry [B, Ng, geometry_dim], mask [B, Ng] or ``None``. Raises ``ValueError`` for a row all False."""
        mask = as_mask(mask, geometry, "geometry")
        refuse_empty(geometry=mask)
        geometry = self.norm(geometry.masked_fill(~mask.unsqueeze(-1), 0).to(self.norm.weight.dtype))
        geometry = at_least_float32(geometry)
        weights = mask.to(geometry.dtype) / mask.sum(1, keepdim=True)
        with torch.autocast(geometry.device.type, enabled=False):
            mean = weights.unsqueeze(1) @ geometry
        tokens = self.out(at_least_float32(self.project(mean.to(self.project.weight.dtype))))
        return Anchored(tokens, weights.unsqueeze(1) if return_attention else None)
