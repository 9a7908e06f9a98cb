"""Residual guidance: a drift that turns a chunk towards what the plan expected to see.

    a1 = a_t + (1 - t) stopgrad(v)          the clean chunk that the flow is heading for
    E  = mean (S_ref - S_hat(a1))^2         against what S_ref is, see plan.py
    b  = -eta(t) dE/da_t                    added to the velocity of the Euler step

v is held, so da1/da_t is the identity and the gradient goes through the world predictor only.

How large dE/da is depends on how the task tokens came out, and with it how far a fixed eta goes. With
``step: line_search`` b is eta(t) times what brings the clean chunk to the minimum of E along the drift,

    b = -eta(t) h <r, d> / <d, d> dE/da_t / (1 - t),   r = S_ref - S_hat(a1),   d = S_hat(a1 - h dE/da_t) - S_hat(a1)

that is exact where S_hat is linear between a1 and the trial point (Cauchy's step, Nocedal and Wright 2006, 4.1, by one
trial instead of a second derivative); 0 where the trial leads away from S_ref.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from .energy import guidance_energy
from .predictor import WorldPredictor

SCHEDULES = ("constant", "linear", "cosine")
STEPS = ("fixed", "line_search")
TRIAL = 0.1
"""How far the line search's trial goes, as a share of the clean chunk's norm."""


class GuidanceSettings(Protocol):
    """What is read of the configuration's group ``guidance``."""

    @property
    def eta(self) -> float: ...
    @property
    def step(self) -> str: ...
    @property
    def schedule(self) -> str: ...
    @property
    def max_norm(self) -> float: ...


@dataclass(frozen=True)
class Reference:
    """What a candidate chunk is measured against; ``Plan.reference`` makes it.

    ``tokens [B,Ns,D]`` and ``state [B,1,Ds]`` (or None) are what the prediction starts from, ``target [B,Ns,D]`` what
    it should come to, ``valid [B,H]`` bool the actions that lie between the two (None: all).
    """

    tokens: torch.Tensor
    state: torch.Tensor | None
    target: torch.Tensor
    valid: torch.Tensor | None

    def clone(self) -> Reference:
        """Copies that autograd may save, wherever the originals were made."""
        return Reference(*(None if part is None else part.clone() for part in vars(self).values()))


@dataclass(frozen=True)
class Drift:
    """``b [B,H,A]``, ``energy [B]`` before it, ``residual_norm [B]`` = ||S_ref - S_hat(a1)||; all in the predictor's
    dtype (float32 at least)."""

    b: torch.Tensor
    energy: torch.Tensor
    residual_norm: torch.Tensor


def eta_at(config: GuidanceSettings, t: float | torch.Tensor) -> float | torch.Tensor:
    """The strength at flow time t, from noise (0) to action (1); a tensor of times gives a tensor.

    ``constant`` eta; ``linear`` eta (1 - t); ``cosine`` eta (1 + cos(pi t)) / 2. The falling ones leave the last steps
    to the flow, which can then bring a corrected chunk back to what actions look like.

    Raises ValueError for another schedule, and for a float t outside [0, 1].
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"sagr.guidance.schedule is {config.schedule!r}; choose one of {', '.join(SCHEDULES)}")
    if not isinstance(t, torch.Tensor) and not 0.0 <= t <= 1.0:
        raise ValueError(f"flow time {t} is outside [0, 1]; the head must pass t / num_steps")
    if config.schedule == "linear":
        return config.eta * (1.0 - t)
    if config.schedule == "cosine":
        cosine = torch.cos(math.pi * t) if isinstance(t, torch.Tensor) else math.cos(math.pi * t)
        return config.eta * 0.5 * (1.0 + cosine)
    return torch.full_like(t, config.eta) if isinstance(t, torch.Tensor) else config.eta


def capped(b: torch.Tensor, velocity: torch.Tensor, max_norm: float) -> torch.Tensor:
    """``b [B,H,A]`` with ||b|| <= max_norm ||velocity|| for every sample, norms over H x A; its direction stays.

    What it is scaled by is held: a derivative of the result is that of ``b``, so scaled.
    """
    with torch.no_grad():
        limit = max_norm * torch.linalg.vector_norm(velocity, dim=(1, 2), keepdim=True)
        norm = torch.linalg.vector_norm(b, dim=(1, 2), keepdim=True)
        scale = (limit / norm.clamp_min(torch.finfo(b.dtype).tiny)).clamp(max=1.0)
    return b * scale


def drift_along(
    gradient: torch.Tensor,
    predictor: WorldPredictor,
    config: GuidanceSettings,
    clean: torch.Tensor,
    expected: torch.Tensor,
    reference: Reference,
    velocity: torch.Tensor,
    t: float | torch.Tensor,
) -> torch.Tensor:
    """b of an Euler step, scaled and capped: ``gradient [B,H,A]`` = dE/da1 -> ``[B,H,A]``.

    ``clean [B,H,A]`` is a1, ``expected [B,Ns,D]`` = S_hat(a1), ``velocity [B,H,A]`` what the flow predicts, ``t`` its
    time, a float or ``[B,1,1]``; all in the predictor's dtype. What scales the gradient, the line search and the cap,
    is held: where the gradient has a graph, b's derivative is the gradient's, so scaled.
    """
    if config.step == "line_search":
        left = (1.0 - t).clamp_min(1e-6) if isinstance(t, torch.Tensor) else max(1.0 - t, 1e-6)
        gradient = _to_the_minimum(gradient, predictor, clean, expected, reference) / left
    return capped(-eta_at(config, t) * gradient, velocity, config.max_norm)


def _to_the_minimum(
    gradient: torch.Tensor,
    predictor: WorldPredictor,
    clean: torch.Tensor,
    expected: torch.Tensor,
    reference: Reference,
) -> torch.Tensor:
    """``gradient [B,H,A]`` so scaled that ``clean`` minus it is where E is least along it, row by row."""
    with torch.no_grad():
        tiny = torch.finfo(clean.dtype).tiny
        norms = [torch.linalg.vector_norm(part, dim=(1, 2), keepdim=True) for part in (clean, gradient)]
        # A chunk of zeros still needs a trial: one action's unit. Where no action changes anything, as with a predictor
        # that is new, the trial is none; the root of tiny keeps its length from overflow, which would make it NaN.
        step = TRIAL * torch.where(norms[0] > 0, norms[0], 1.0) / norms[1].clamp_min(tiny**0.5)
        there = predictor(reference.tokens, reference.state, clean - gradient * step, reference.valid)
        moved, wanted = (there - expected).flatten(1), (reference.target.to(expected) - expected).flatten(1)
        length = ((wanted * moved).sum(1) / moved.square().sum(1).clamp_min(tiny)).clamp_min(0.0)
    return gradient * step * length[:, None, None]


class ResidualGuidance:
    """The drift of one predictor under one configuration. It owns no weights and changes none: the predictor's
    ``requires_grad`` flags and ``.grad`` stay as they are."""

    def __init__(self, predictor: WorldPredictor, config: GuidanceSettings) -> None:
        eta_at(config, 0.0)
        if config.step not in STEPS:
            raise ValueError(f"sagr.guidance.step is {config.step!r}; choose one of {', '.join(STEPS)}")
        for name in ("eta", "max_norm"):
            value = getattr(config, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"sagr.guidance.{name} is {value}; it must be a finite number >= 0")
        self.predictor, self.config = predictor, config

    def drift(self, actions: torch.Tensor, velocity: torch.Tensor, t: float, reference: Reference) -> Drift:
        """b for one Euler step.

        Works under ``torch.no_grad`` and ``torch.inference_mode``, with tensors made there: upstream's
        ``predict_action`` runs under both.

        Args:
            actions: ``[B,H,A]``, the noisy chunk at t.
            velocity: ``[B,H,A]``, what the flow predicts there.
            t: in [0, 1].
            reference: rows as those of ``actions``.

        Returns:
            Detached tensors. Rows are independent of each other; actions outside ``reference.valid`` get zeros.
            ||b|| is at most ``max_norm`` ||velocity|| of the same sample.
        """
        # Autocast would round the products of the backward pass too, where the predictor's own switch does not reach.
        exact = torch.autocast(device_type=actions.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), exact:
            held = velocity.detach().clone().to(self.predictor.dtype)
            clean = (actions.detach().clone().to(held.dtype) + (1.0 - t) * held).requires_grad_()
            start = reference.clone()
            expected = self.predictor(start.tokens, start.state, clean, start.valid)
            energy = guidance_energy(expected, start.target)
            (gradient,) = torch.autograd.grad(energy.sum(), clean)
            b = drift_along(gradient, self.predictor, self.config, clean, expected, start, held, t)
        energy = energy.detach()
        return Drift(b, energy, (energy * expected[0].numel()).sqrt())
