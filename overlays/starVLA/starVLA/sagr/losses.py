"""The loss: L = w_fm L_CFM + w_dyn L_dyn + w_geo L_geo + w_reg integral ||b||^2 dt (+ w_align InfoNCE + w_ground L_gr).

    L_dyn  mean (P(S_t, state, a) - S_tk)^2        a: the demonstrated actions          trains the predictor
    L_geo  r' W r / 2, r = S_tk - P(S_t, state, a1)  a1: the flow's clean estimate       trains the action flow
    reg    ||b||^2, b as guidance.py adds it         E against S_tk                      trains the action flow
    L_gr   see grounding.py                                                              trains the anchor

W is the identity on samples of ``contact`` (all where the data has none) and 0 on others.

S_t and S_tk are held in all three: tokens that may move to where they are predicted best end as constants. The
predictor is held in the last two: one that ignores the actions would have no drift at all. So L_dyn reaches the
predictor alone, the other two the flow (and, through the velocity, what it attends to, the anchor among it).
t comes from the head, so reg is the integral under its distribution of t, not under a uniform one.

b is charged as it is added, with the line search's scale and the cap. Both are held in reg's gradient, which is that of
||dE/da1||^2 times their square. Differentiated, a drift at its cap would have no gradient but one that shrinks the
velocity, and the line search, whose steps are short where tokens answer strongly, would send the flow where they do
instead of where the outcome agrees; it would also need a third derivative of the predictor. The 1 / (1 - t) of the
line search meets da1/dv = 1 - t, so that late times do not blow up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from .energy import guidance_energy, residual_energy
from .flow import FlowPass, cosine
from .guidance import GuidanceSettings, Reference, drift_along, eta_at
from .predictor import WorldPredictor


class LossWeights(Protocol):
    """What is read of the configuration's group ``losses``."""

    @property
    def w_fm(self) -> float: ...
    @property
    def w_dyn(self) -> float: ...
    @property
    def w_geo(self) -> float: ...
    @property
    def w_reg(self) -> float: ...
    @property
    def w_align(self) -> float: ...
    @property
    def w_ground(self) -> float: ...


@dataclass(frozen=True)
class Transition:
    """A batch's samples of (S_t, state_t, a_t, S_tk).

    ``tokens``, ``next_tokens [B,Ns,D]``; ``state [B,1,Ds]`` or None; ``actions [B,H,A]``; ``between [B,H]`` bool, the
    actions from t to tk (None: all); ``valid [B]`` bool, False where the episode ended before tk (None: all valid);
    ``contact [B]`` bool, the samples that L_geo charges (None: all).
    """

    tokens: torch.Tensor
    next_tokens: torch.Tensor
    state: torch.Tensor | None
    actions: torch.Tensor
    between: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    contact: torch.Tensor | None = None

    def held(self) -> Transition:
        """Without graphs, and with zeros where the next tokens are not valid: what stands there may be NaN."""
        following = self.next_tokens.detach()
        if self.valid is not None:
            following = following.masked_fill(~self.valid[:, None, None], 0.0)
        return replace(self, tokens=self.tokens.detach(), next_tokens=following)

    def repeated(self, times: int) -> Transition:
        """The batch ``times`` times one after the other, as starVLA repeats it for the flow."""
        return Transition(
            *(None if part is None else part.repeat(times, *[1] * (part.ndim - 1)) for part in vars(self).values())
        )


@dataclass(frozen=True)
class Losses:
    """``total``, what is minimised; ``parts``, its terms unweighted, with their graphs, those of weight 0 left out;
    ``monitors``, detached scalars under the names of the metrics ``debug/sagr/*``."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]
    monitors: dict[str, torch.Tensor]


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of ``values [B]`` where ``mask [B]`` is True; 0, with a graph, where it is nowhere."""
    if mask is None:
        return values.mean()
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


class SagrLosses:
    """The loss under one configuration."""

    def __init__(self, weights: LossWeights, guidance: GuidanceSettings) -> None:
        for name in ("w_fm", "w_dyn", "w_geo", "w_reg", "w_align", "w_ground"):
            if not 0.0 <= getattr(weights, name) < float("inf"):
                raise ValueError(f"sagr.losses.{name} is {getattr(weights, name)}; it must be a finite number >= 0")
        eta_at(guidance, 0.0)
        self.weights, self.guidance = weights, guidance

    def __call__(
        self,
        predictor: WorldPredictor,
        transition: Transition | None = None,
        flow_loss: torch.Tensor | None = None,
        flow: FlowPass | None = None,
        align: torch.Tensor | None = None,
        ground: torch.Tensor | None = None,
    ) -> Losses:
        """The weighted total and its parts.

        Args:
            predictor: trained by L_dyn, held elsewhere; its ``requires_grad`` flags are not touched.
            transition: B samples; None where only the flow, or the alignment, is trained.
            flow_loss: L_CFM, scalar, as the head returned it.
            flow: what watched that pass; its estimate has B rows or a multiple (starVLA repeats the batch).
            align: InfoNCE, scalar, where the stage has it.
            ground: ``grounding.grounding_loss``, scalar, where the data has masks.

        Raises ValueError where a weight above 0 lacks its input, or rows do not fit.
        """
        self._check(transition, flow_loss, flow, align, ground)
        parts: dict[str, torch.Tensor] = {}
        monitors: dict[str, torch.Tensor] = {}
        if flow_loss is not None and self.weights.w_fm > 0:
            parts["fm"] = flow_loss
        if transition is not None:
            held = transition.held()
            if self.weights.w_dyn > 0:
                parts["dyn"] = self._dynamics(predictor, held, monitors)
            if flow is not None and (self.weights.w_geo > 0 or self.weights.w_reg > 0):
                parts.update(self._flow_terms(predictor, held, flow, monitors))
        if align is not None and self.weights.w_align > 0:
            parts["align"] = align
        if ground is not None and self.weights.w_ground > 0:
            parts["ground"] = ground
        if not parts:
            raise ValueError("sagr.losses: every weight is 0, nothing would be trained; set one of them")
        terms = [getattr(self.weights, f"w_{name}") * part for name, part in parts.items()]
        return Losses(sum(terms[1:], start=terms[0]), parts, monitors)

    def _check(
        self,
        transition: Transition | None,
        flow_loss: torch.Tensor | None,
        flow: FlowPass | None,
        align: torch.Tensor | None,
        ground: torch.Tensor | None,
    ) -> None:
        weights = self.weights
        if transition is None and (weights.w_dyn > 0 or weights.w_geo > 0 or weights.w_reg > 0):
            raise ValueError(
                f"sagr.losses.w_dyn is {weights.w_dyn}, w_geo {weights.w_geo}, w_reg {weights.w_reg}, but the batch "
                "has no next frame; use a data set with image_tk, or set the three to 0"
            )
        if weights.w_fm > 0 and flow_loss is None:
            raise ValueError(f"sagr.losses.w_fm is {weights.w_fm}, but there is no loss of the head; set it to 0")
        if (weights.w_geo > 0 or weights.w_reg > 0) and (flow is None or flow.estimate is None):
            raise ValueError(
                f"sagr.losses.w_geo is {weights.w_geo} and w_reg {weights.w_reg}, but no FlowPass watched the head: "
                "pass flow= to it (the graft adds that keyword: run `python apply.py starVLA`), or set both to 0"
            )
        if weights.w_align > 0 and align is None:
            raise ValueError(f"sagr.losses.w_align is {weights.w_align}, but no InfoNCE was given; set it to 0")
        if weights.w_ground > 0 and ground is None:
            raise ValueError(f"sagr.losses.w_ground is {weights.w_ground}, but no grounding was given; set it to 0")

    def _dynamics(
        self, predictor: WorldPredictor, given: Transition, monitors: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        expected = predictor(given.tokens, given.state, given.actions, given.between)
        residual = given.next_tokens.to(expected.dtype) - expected
        loss = masked_mean(residual.square().mean(dim=(1, 2)), given.valid)
        monitors["mse_dyn"] = loss.detach()
        norms = torch.linalg.vector_norm(residual.detach(), dim=(1, 2))
        monitors["delta_z_norm_mean"] = masked_mean(norms, given.valid)
        return loss

    def _flow_terms(
        self, predictor: WorldPredictor, given: Transition, flow: FlowPass, monitors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """L_geo and reg, as functions of the clean estimate alone: differentiated by it at once, so that whatever
        calls ``backward`` later reaches no weight of the predictor."""
        estimate, times, velocity = flow.estimate, flow.t, flow.velocity
        if len(estimate) % len(given.tokens):
            raise ValueError(f"flow: {len(estimate)} rows are no multiple of the batch's {len(given.tokens)}")
        given = given.repeated(len(estimate) // len(given.tokens))
        charged = given.valid
        if given.contact is not None:
            charged = given.contact if charged is None else charged & given.contact
        # The backward pass is taken here, so autocast must be off here: it would round its products.
        with torch.enable_grad(), torch.autocast(device_type=estimate.device.type, enabled=False):
            leaf = estimate.detach().to(predictor.dtype).requires_grad_()
            expected = predictor(given.tokens, given.state, leaf, given.between)
            target = given.next_tokens.to(expected.dtype)
            energies = residual_energy(target - expected)
            guided = guidance_energy(expected, target).sum()
            (gradient,) = torch.autograd.grad(guided, leaf, create_graph=self.weights.w_reg > 0, retain_graph=True)
            start = Reference(given.tokens, given.state, target, given.between)
            t, v = times.detach().to(leaf.dtype), velocity.detach().to(leaf.dtype)
            drift = drift_along(gradient, predictor, self.guidance, leaf, expected, start, v, t)
            values = {}
            if self.weights.w_geo > 0:
                values["geo"] = masked_mean(energies, charged)
            if self.weights.w_reg > 0:
                values["reg"] = masked_mean(drift.square().sum(dim=(1, 2)), given.valid)
            slopes = {name: torch.autograd.grad(value, leaf, retain_graph=True)[0] for name, value in values.items()}
        drift, energies = drift.detach(), energies.detach()
        monitors["geo_energy_mean"] = masked_mean(energies, given.valid)
        monitors["E_geo"] = masked_mean(energies, charged)
        monitors["drift_l2_mean"] = masked_mean(torch.linalg.vector_norm(drift, dim=(1, 2)), given.valid)
        monitors["rho_da"] = masked_mean(cosine(drift, v), given.valid)
        # The value, and the gradient by the estimate that was just computed: zero is added, with a slope.
        zero = estimate.to(leaf.dtype) - leaf.detach()
        return {name: value.detach() + (zero * slopes[name]).sum() for name, value in values.items()}
