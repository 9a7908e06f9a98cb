"""Small predictors for unit tests: the real one with weights that do something, and one with a closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sagr.plan import Plan
from sagr.predictor import WorldPredictor
from torch import nn

B, NS, D, H, A, DS = 3, 4, 6, 5, 2, 3


@dataclass(frozen=True)
class Guidance:
    eta: float = 0.2
    step: str = "fixed"
    schedule: str = "constant"
    max_norm: float = 1e9


@dataclass(frozen=True)
class Weights:
    w_fm: float = 0.0
    w_dyn: float = 0.0
    w_geo: float = 0.0
    w_reg: float = 0.0
    w_align: float = 0.0
    w_ground: float = 0.0


def make_predictor(dtype: torch.dtype = torch.float64, state_dim: int | None = DS, seed: int = 0) -> WorldPredictor:
    """Two layers, and a last one that is not zero: it answers to its actions."""
    torch.manual_seed(seed)
    predictor = WorldPredictor(D, state_dim, A, H, layers=2, hidden=8, heads=2)
    nn.init.normal_(predictor.change[-1].weight, std=0.5)
    nn.init.normal_(predictor.change[-1].bias, std=0.5)
    return predictor.to(dtype)


class Reaching(nn.Module):
    """Slots hold places relative to a gripper that moves by its actions: S' = S - gain * sum of the valid ones."""

    dtype = torch.float64

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(
        self, tokens: torch.Tensor, state: torch.Tensor | None, actions: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        moved = (actions.to(self.dtype) * valid[..., None]).sum(dim=1, keepdim=True)
        return tokens.to(self.dtype) - self.gain * moved


def inputs(dtype: torch.dtype = torch.float64, seed: int = 1, state: bool = True) -> dict[str, torch.Tensor | None]:
    """Random arguments of the predictor's forward."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "tokens": random(B, NS, D),
        "state": random(B, 1, DS) if state else None,
        "actions": random(B, H, A),
        "valid": torch.arange(H) < torch.tensor([[2], [5], [3]]),
    }


def plan_of(given: dict[str, torch.Tensor | None], step: int = 10) -> Plan:
    return Plan(given["tokens"], given["state"], given["actions"], step)
