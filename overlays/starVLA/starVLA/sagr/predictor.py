"""The world predictor: how the task tokens change when the first n actions of a chunk are executed.

    S_hat = S + MLP(Attn(S, state, actions))

A pre-norm transformer over [task tokens, duration, state, actions]. It is the only thing that residual guidance
differentiates, so it is smooth (GELU), has no dropout, and computes in float32 at least, whatever the dtype around it:
a prediction and the reference it is compared with must be rounded alike, or guidance would act on rounding errors.
Attention is written out, because L_reg differentiates twice and fused kernels do not.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call


class Block(nn.Module):
    """Self-attention and MLP, pre-norm. ``rows`` asks for the first places only: the last block needs no others."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key_value = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor, hidden_keys: torch.Tensor, rows: int | None = None) -> torch.Tensor:
        """``x [B,T,hidden]``, ``hidden_keys [B,T]`` True where nobody may look -> ``[B, rows or T, hidden]``."""
        normed = self.before_attention(x)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        query = self._split(self.query(normed[:, :rows]))
        scores = query @ self._split(key).transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(hidden_keys[:, None, None, :], -torch.inf).softmax(dim=-1)
        x = x[:, :rows] + self.out((weights @ self._split(value)).transpose(1, 2).flatten(2))
        return x + self.mlp(self.before_mlp(x))


class WorldPredictor(nn.Module):
    """Task tokens after the first n actions.

    Args:
        dim: width D of the task tokens.
        state_dim: width of the proprioceptive state; None or 0 where the robot reports none.
        action_dim: A, normalised as the action head's.
        horizon: H, the length of a chunk.
        layers, hidden, heads: of the transformer.

    Raises ValueError where a size is not positive or ``heads`` does not divide ``hidden``.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int | None,
        action_dim: int,
        horizon: int,
        layers: int = 4,
        hidden: int = 512,
        heads: int = 8,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "action_dim": action_dim, "horizon": horizon, "layers": layers, "hidden": hidden}
        for name, size in {**sizes, "heads": heads}.items():
            if size < 1:
                raise ValueError(f"world predictor: {name} is {size}; it must be at least 1")
        if hidden % heads:
            raise ValueError(f"world predictor: heads {heads} does not divide hidden {hidden}; choose one that does")
        self.dim, self.state_dim, self.action_dim, self.horizon = dim, state_dim or None, action_dim, horizon
        self.token_in, self.action_in = nn.Linear(dim, hidden), nn.Linear(action_dim, hidden)
        self.state_in = nn.Linear(self.state_dim, hidden) if self.state_dim else None
        self.position = nn.Parameter(0.02 * torch.randn(horizon, hidden))
        # Softmax averages over the actions; how many they are must be said, or a sum could not be told from a mean.
        self.duration = nn.Parameter(0.02 * torch.randn(horizon + 1, hidden))
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.change = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, dim))
        # Starts as the identity: until it has learned something, it expects nothing to change and guides nothing.
        nn.init.zeros_(self.change[-1].weight)
        nn.init.zeros_(self.change[-1].bias)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in and returns: float32, or float64 where its weights are."""
        return torch.promote_types(self.position.dtype, torch.float32)

    def forward(
        self,
        tokens: torch.Tensor,
        state: torch.Tensor | None,
        actions: torch.Tensor,
        valid: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the task tokens will be.

        Args:
            tokens: ``[B,Ns,D]``, task tokens of an observation.
            state: ``[B,1,Ds]``, the proprioceptive state then; None exactly where the predictor was made without.
            actions: ``[B,H,A]``.
            valid: ``[B,H]`` bool, which actions are executed; None: all. The others have no influence, NaN or not.

        Returns:
            ``[B,Ns,D]`` in ``self.dtype``. A sample without a valid action comes back as it is.

        Raises ValueError where a shape does not fit.
        """
        self._check(tokens, state, actions, valid)
        if self.position.dtype != self.dtype:
            # Weights in bfloat16 (a deployed model) would round the gradient away.
            wide = {name: weight.to(self.dtype) for name, weight in self.named_parameters()}
            return functional_call(self, wide, (tokens, state, actions, valid))
        if valid is None:
            valid = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            tokens = tokens.to(self.dtype)
            actions = actions.to(self.dtype).masked_fill(~valid[..., None], 0.0)
            parts = [self.token_in(tokens), self.duration[valid.sum(dim=1)][:, None]]
            if self.state_in is not None and state is not None:
                parts.append(self.state_in(state.to(self.dtype)))
            seen = sum(part.shape[1] for part in parts)
            x = torch.cat([*parts, self.action_in(actions) + self.position], dim=1)
            hidden_keys = torch.cat([valid.new_zeros(len(x), seen), ~valid], dim=1)
            last = len(self.blocks) - 1
            for number, block in enumerate(self.blocks):
                x = block(x, hidden_keys, rows=tokens.shape[1] if number == last else None)
            change = self.change(self.norm(x))
            return tokens + change.masked_fill(~valid.any(dim=1)[:, None, None], 0.0)

    def _check(
        self, tokens: torch.Tensor, state: torch.Tensor | None, actions: torch.Tensor, valid: torch.Tensor | None
    ) -> None:
        batch = len(tokens)
        if tokens.ndim != 3 or tokens.shape[-1] != self.dim:
            raise ValueError(f"world predictor: task tokens must be [B,Ns,{self.dim}], got {list(tokens.shape)}")
        if tuple(actions.shape) != (batch, self.horizon, self.action_dim):
            raise ValueError(
                f"world predictor: actions must be [{batch},{self.horizon},{self.action_dim}], got "
                f"{list(actions.shape)}; action_dim and action_horizon of the framework must fit the data"
            )
        if (state is None) != (self.state_dim is None):
            raise ValueError(
                f"world predictor: made with state_dim {self.state_dim}, but "
                f"{'no state was given' if state is None else 'a state was given'}; "
                "set framework.action_model.state_dim as the data has it (0 or null for none)"
            )
        if state is not None and tuple(state.shape) != (batch, 1, self.state_dim):
            raise ValueError(f"world predictor: state must be [{batch},1,{self.state_dim}], got {list(state.shape)}")
        if valid is not None and (tuple(valid.shape) != (batch, self.horizon) or valid.dtype != torch.bool):
            raise ValueError(
                f"world predictor: valid must be bool [{batch},{self.horizon}], got {valid.dtype} {list(valid.shape)}"
            )
