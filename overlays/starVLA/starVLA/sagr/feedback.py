"""Causal feedback tokens: what the last actions did to the task tokens, told to the head.

delta_z = mean over slots of (after - before); the action context is the mean of the executed actions; an MLP makes Kf
tokens of the two. Their place is in front of the task tokens in the head's cross-attention context (fusion.py). Built
only where ``enable_causal_feedback_token`` is on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .precision import at_least_float32


class CausalFeedback(nn.Module):
    """Feedback tokens [B, tokens, out_dim]. The arguments are the method's keys without ``causal_feedback_``.

    tokens: ``causal_feedback_token_num``. detach_delta, detach_action: no gradient to the task tokens, to the actions.
    use_valid_mask: rows whose ``valid`` is False give zero tokens and no gradient. scale: factor on the tokens. gate:
    the tokens are multiplied by tanh of a learned scalar that starts at 0 (Alayrac et al. 2022), and FusionModule with
    ``add_feedback`` adds them to the task tokens: a head that ignores its context's first tokens still sees them.
    """

    def __init__(
        self,
        dim: int,
        action_dim: int,
        out_dim: int,
        tokens: int = 1,
        detach_delta: bool = True,
        detach_action: bool = True,
        use_valid_mask: bool = True,
        scale: float = 1.0,
        dropout: float = 0.0,
        gate: bool = False,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(
                f"framework.action_model.causal_feedback_token_num = {tokens}: give at least 1, or turn "
                "enable_causal_feedback_token off"
            )
        self.dim, self.action_dim, self.tokens, self.scale = dim, action_dim, tokens, scale
        self.detach_delta, self.detach_action, self.use_valid_mask = detach_delta, detach_action, use_valid_mask
        self.mlp = nn.Sequential(
            nn.Linear(dim + action_dim, out_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(out_dim, tokens * out_dim)
        )
        self.gate = nn.Parameter(torch.zeros(())) if gate else None

    def forward(
        self,
        before: Tensor,
        after: Tensor,
        actions: Tensor,
        valid: Tensor | None = None,
        executed: Tensor | None = None,
    ) -> Tensor:
        """before, after [B, Ns, dim]: task tokens; actions [B, H, action_dim]; valid [B] bool; executed [B, H] bool:
        the actions that were carried out, all where ``None`` (a row without any has an action context of zeros).

        Returns [B, tokens, out_dim]. Raises ``ValueError`` for widths that do not fit.
        """
        self._check(before, after, actions)
        delta = at_least_float32(after).mean(1) - at_least_float32(before).mean(1)
        context = masked_mean(at_least_float32(actions), executed)
        delta = delta.detach() if self.detach_delta else delta
        context = context.detach() if self.detach_action else context
        inputs = torch.cat([delta, context], -1)
        hidden = None if valid is None or not self.use_valid_mask else ~valid.to(inputs.device).bool()
        if hidden is not None:
            # Before the MLP too: a NaN in a row without a next frame would reach the weights' gradient through 0 * NaN.
            inputs = inputs.masked_fill(hidden[:, None], 0)
        tokens = self.mlp(inputs.to(self.mlp[0].weight.dtype)).unflatten(-1, (self.tokens, -1)) * self.scale
        if self.gate is not None:
            tokens = tokens * self.gate.tanh()
        return tokens if hidden is None else tokens.masked_fill(hidden[:, None, None], 0)

    def _check(self, before: Tensor, after: Tensor, actions: Tensor) -> None:
        if before.shape != after.shape or before.shape[-1] != self.dim:
            raise ValueError(
                f"task tokens before {tuple(before.shape)} and after {tuple(after.shape)}: both must be "
                f"[B, Ns, {self.dim}]"
            )
        if actions.shape[0] != before.shape[0] or actions.shape[-1] != self.action_dim:
            raise ValueError(
                f"actions {tuple(actions.shape)} must be [{before.shape[0]}, H, {self.action_dim}]: "
                "framework.action_model.action_dim must be the data's"
            )


def from_outside(given: Any, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Feedback tokens that a caller made, an array or a tensor, on the device.

    Raises ValueError for another shape than [B, Kf, width], and for NaN or inf.
    """
    tokens = torch.as_tensor(given, device=device)
    if tuple(tokens.shape) != shape:
        raise ValueError(
            f"feedback_tokens are {list(tokens.shape)}, they must be {list(shape)}: examples, "
            "framework.action_model.causal_feedback_token_num and the width of the head's context"
        )
    if not tokens.isfinite().all():
        raise ValueError("feedback_tokens hold NaN or inf")
    return tokens


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of x [B, N, D] over N where mask [B, N] is True: [B, D], zeros for a row without any."""
    if mask is None:
        return x.mean(1)
    mask = mask.to(x.device).bool().unsqueeze(-1)
    return x.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp_min(1)
