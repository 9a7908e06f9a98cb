"""The losses by hand, and whom their gradients reach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from sagr.alignment import info_nce
from sagr.flow import FlowPass
from sagr.guidance import Reference, ResidualGuidance
from sagr.losses import Losses, SagrLosses, Transition
from small_worlds import NS, A, B, D, Guidance, H, Reaching, Weights, inputs, make_predictor
from torch import nn


class Anchor(nn.Module):
    """Task tokens from geometry tokens by one cross-attention; stands in for the semantic anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.key, self.value = nn.Parameter(torch.randn(NS, D)), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, geometry: torch.Tensor) -> torch.Tensor:
        scores = self.slots @ self.key(geometry).transpose(1, 2)
        return scores.softmax(dim=-1) @ self.value(geometry)


class Flow(nn.Module):
    """A flow-matching head of two layers that sees the task tokens, with the seam that the graft opens."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(H * A + D + 1, 16), nn.Tanh(), nn.Linear(16, H * A))

    def forward(self, tokens: torch.Tensor, actions: torch.Tensor, flow: FlowPass) -> torch.Tensor:
        noise, t = torch.randn_like(actions), torch.rand(len(actions), 1, 1, dtype=actions.dtype)
        noisy = (1 - t) * noise + t * actions
        seen = torch.cat([noisy.flatten(1), tokens.mean(dim=1), t[:, 0]], dim=1)
        velocity = self.net(seen).unflatten(1, (H, A))
        return flow.observe((velocity - (actions - noise)).square().mean(), noisy, t, velocity)


class Model:
    """Anchor, flow and predictor in float64, and one pass through them."""

    def __init__(self, repeat: int = 1) -> None:
        torch.manual_seed(0)
        self.anchor, self.flow = Anchor().double(), Flow().double()
        self.predictor = make_predictor()
        now, following = inputs(seed=1), inputs(seed=2)
        self.seen = FlowPass()
        tokens, actions = self.anchor(now["tokens"]), now["actions"]
        self.loss = self.flow(tokens.repeat(repeat, 1, 1), actions.repeat(repeat, 1, 1), self.seen)
        next_tokens = self.anchor(following["tokens"])
        self.transition = Transition(tokens, next_tokens, now["state"], actions, between=now["valid"])

    def losses(self, config: Guidance | None = None, **weights: float) -> Losses:
        loss = SagrLosses(Weights(**weights), config or Guidance())
        return loss(self.predictor, self.transition, self.loss, self.seen)

    def reached(self) -> set[str]:
        """The modules with a gradient that is not zero."""
        parts = {"anchor": self.anchor, "flow": self.flow, "predictor": self.predictor}
        return {
            name
            for name, part in parts.items()
            if any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in part.parameters())
        }


@pytest.mark.parametrize(
    ("weight", "reached"),
    [
        ("w_fm", {"anchor", "flow"}),
        ("w_dyn", {"predictor"}),
        # The anchor only through the velocity, which attends to its tokens.
        ("w_geo", {"anchor", "flow"}),
        ("w_reg", {"anchor", "flow"}),
    ],
)
def test_whom_each_loss_trains(weight: str, reached: set[str]) -> None:
    model = Model()
    model.losses(**{weight: 1.0}).total.backward()
    assert model.reached() == reached
    assert all(parameter.requires_grad for parameter in model.predictor.parameters())


def test_the_flow_loss_reaches_the_anchors_attention() -> None:
    model = Model()
    model.losses(w_fm=1.0).total.backward()
    for weight in (model.anchor.slots, model.anchor.key.weight, model.anchor.value.weight):
        assert weight.grad.abs().sum() > 0


def test_the_geometry_loss_reaches_the_anchor_through_the_velocity_alone() -> None:
    model = Model()
    model.seen.estimate = model.seen.estimate.detach().requires_grad_()
    model.losses(w_geo=1.0, w_reg=1.0).total.backward()
    assert model.reached() == set()
    assert model.seen.estimate.grad.abs().sum() > 0


def test_a_weight_of_one_alone_hands_the_flow_loss_on_as_it_is() -> None:
    model = Model()
    assert torch.equal(model.losses(w_fm=1.0).total, model.loss)


def by_the_definition(model: Model, eta: float = 0.2, contact: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The terms written as one differentiable graph, with the predictor's weights in it."""
    given, estimate = model.transition, model.seen.estimate
    start, target = given.tokens.detach(), given.next_tokens.detach()
    r = target - model.predictor(start, given.state, estimate, given.between)
    (slope,) = torch.autograd.grad((r**2).sum() / (NS * D), estimate, create_graph=True)
    each = 0.5 * (r**2).sum(dim=(1, 2)) / (NS * D)
    demonstrated = target - model.predictor(start, given.state, given.actions, given.between)
    return {
        "fm": model.loss,
        "dyn": (demonstrated**2).mean(),
        "geo": each.mean() if contact is None else each[contact].mean(),
        "reg": (eta**2 * slope**2).sum() / B,
    }


@pytest.mark.parametrize("name", ["fm", "dyn", "geo", "reg"])
def test_each_term_and_its_gradient_are_those_of_its_definition(name: str) -> None:
    model, twin = Model(), Model()
    losses = model.losses(**{f"w_{name}": 1.0})
    expected = by_the_definition(twin)[name]
    torch.testing.assert_close(losses.parts[name], expected)
    losses.total.backward()
    trained = model.predictor if name == "dyn" else model.flow
    their = list((twin.predictor if name == "dyn" else twin.flow).parameters())
    wanted = torch.autograd.grad(expected, their, allow_unused=True)
    for weight, gradient in zip(trained.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-15)


def test_the_total_weighs_its_parts() -> None:
    model = Model()
    weights = {"w_fm": 1.0, "w_dyn": 0.2, "w_geo": 0.1, "w_reg": 1e-3}
    losses, expected = model.losses(**weights), by_the_definition(Model())
    assert losses.total.item() == pytest.approx(
        sum(weight * expected[name.removeprefix("w_")].item() for name, weight in weights.items())
    )
    assert list(losses.parts) == ["fm", "dyn", "geo", "reg"]


def test_contact_samples_are_charged_and_monitors_say_both() -> None:
    model = Model()
    contact = torch.tensor([True, False, True])
    model.transition = replace(model.transition, contact=contact)
    losses = model.losses(w_geo=1.0, w_reg=1.0, w_dyn=1.0)
    expected, everywhere = by_the_definition(Model(), contact=contact), by_the_definition(Model())
    torch.testing.assert_close(losses.parts["geo"], expected["geo"])
    assert losses.monitors["E_geo"].item() == pytest.approx(expected["geo"].item())
    assert losses.monitors["geo_energy_mean"].item() == pytest.approx(everywhere["geo"].item())
    assert losses.monitors["mse_dyn"].item() == pytest.approx(expected["dyn"].item())
    assert set(losses.monitors) == {
        "mse_dyn", "delta_z_norm_mean", "geo_energy_mean", "E_geo", "drift_l2_mean", "rho_da",
    }  # fmt: skip
    assert not any(value.requires_grad for value in losses.monitors.values())


def test_reg_follows_the_schedule_of_eta() -> None:
    model, twin = Model(), Model()
    t = model.seen.t[:, 0, 0]
    given = twin.transition
    leaf = twin.seen.estimate.detach().requires_grad_()
    r = given.next_tokens.detach() - twin.predictor(given.tokens.detach(), given.state, leaf, given.between)
    (slope,) = torch.autograd.grad((r**2).mean(dim=(1, 2)).sum(), leaf)
    expected = ((0.7 * (1 - t))[:, None, None] * slope).square().sum(dim=(1, 2)).mean()
    losses = model.losses(Guidance(eta=0.7, schedule="linear"), w_reg=1.0)
    torch.testing.assert_close(losses.parts["reg"].detach(), expected)


def searched(t: list[float], target: float = 3.0) -> tuple[Transition, FlowPass]:
    """Three samples of a gripper at 0.5 a unit of action, its slots `target` further out in one of two dimensions."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(B, 2, A, generator=generator, dtype=torch.float64)
    away = torch.tensor([target, 0.5]).double() * torch.tensor([[1.0], [-0.7], [0.4]]).double()
    between = torch.arange(H) < torch.tensor([[2], [5], [3]])
    seen = FlowPass()
    noisy, seen.velocity = (torch.randn(B, H, A, generator=generator, dtype=torch.float64) for _ in range(2))
    seen.t = torch.tensor(t).double()[:, None, None]
    seen.estimate = (noisy + (1 - seen.t) * seen.velocity).requires_grad_()
    return Transition(start, start + away[:, None], None, seen.estimate.detach(), between), seen


@pytest.mark.parametrize(("eta", "max_norm"), [(0.6, 1e9), (1.0, 0.6)])
def test_reg_charges_the_drift_that_the_line_search_and_the_cap_leave(eta: float, max_norm: float) -> None:
    """S' = S - g sum(a) is linear: the slope by hand, the minimum along it from three energies, what scales it held."""
    gain, given, seen = 0.5, *searched([0.0, 0.35, 0.9])
    config = Guidance(eta=eta, step="line_search", max_norm=max_norm)
    losses = SagrLosses(Weights(w_reg=1.0), config)(Reaching(gain), given, None, seen)
    losses.total.backward()
    norms, slopes, caps = [], torch.zeros(B, H, A).double(), 0
    for row in range(B):
        clean, t, counted = seen.estimate[row].detach(), seen.t[row].item(), given.between[row].double()[:, None]

        def energy(chunk: torch.Tensor, row: int = row, counted: torch.Tensor = counted) -> torch.Tensor:
            there = given.tokens[row] - gain * (chunk * counted).sum(0)
            return ((given.next_tokens[row] - there) ** 2).mean()

        miss = (given.next_tokens[row] - given.tokens[row] + gain * (clean * counted).sum(0)).mean(0)
        slope = 2 * gain * counted * miss / A
        e0, e1, e2 = (energy(clean - step * slope).item() for step in (0.0, 1.0, 2.0))
        to_the_minimum = (3 * e0 - 4 * e1 + e2) / (2 * (e0 - 2 * e1 + e2))
        scale = eta * to_the_minimum / (1 - t)
        most = max_norm * seen.velocity[row].norm().item()
        caps += scale * slope.norm().item() > most
        scale = min(scale, most / slope.norm().item())
        norms.append(scale * slope.norm().item())
        # ||slope||^2 is quadratic in the chunk, and the change of the miss by each counted action is the gain.
        slopes[row] = scale**2 * 2 * counted.sum() * (2 * gain / A) ** 2 * gain * miss * counted / B
    assert caps == (0 if max_norm > 1 else 2), norms
    assert losses.parts["reg"].item() == pytest.approx(sum(norm**2 for norm in norms) / B, rel=1e-10)
    assert losses.monitors["drift_l2_mean"].item() == pytest.approx(sum(norms) / B, rel=1e-10)
    torch.testing.assert_close(seen.estimate.grad, slopes, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("settings", [{"step": "line_search"}, {"step": "line_search", "max_norm": 0.1}, {}])
def test_reg_charges_what_guidance_adds_with_the_same_reference(settings: dict[str, Any]) -> None:
    """The predictor of the method, held against the drift of an Euler step at the same chunk, velocity and time."""
    model = Model()
    model.seen.t = torch.full_like(model.seen.t, 0.25)
    model.seen.estimate = model.seen.estimate.detach()
    config, given, seen = Guidance(**settings), model.transition.held(), model.seen
    losses = model.losses(config, w_reg=1.0)
    reference = Reference(given.tokens, given.state, given.next_tokens, given.between)
    velocity = seen.velocity.detach()
    added = ResidualGuidance(model.predictor, config).drift(seen.estimate - 0.75 * velocity, velocity, 0.25, reference)
    norms = added.b.flatten(1).norm(dim=1)
    assert norms.min() > 0
    assert losses.parts["reg"].item() == pytest.approx(norms.square().mean().item(), rel=1e-10)
    assert losses.monitors["drift_l2_mean"].item() == pytest.approx(norms.mean().item(), rel=1e-10)


def test_a_predictor_that_is_new_has_no_drift_to_charge() -> None:
    """Its last layer is zero, so no action changes anything; chunks far out must not make that NaN."""
    model = Model()
    model.seen.estimate = 1e6 * model.seen.estimate
    nn.init.zeros_(model.predictor.change[-1].weight)
    model.predictor.float()
    losses = model.losses(Guidance(step="line_search"), w_reg=1.0)
    losses.total.backward()
    assert losses.total.item() == 0.0
    assert model.reached() == set()


def test_invalid_samples_count_for_nothing_even_where_they_hold_nan() -> None:
    model, twin = Model(), Model()
    valid = torch.tensor([True, False, True])
    poisoned = model.transition.next_tokens.detach().clone()
    poisoned[1] = torch.nan
    model.transition = replace(model.transition, next_tokens=poisoned, valid=valid)
    losses = model.losses(w_dyn=1.0, w_geo=1.0, w_reg=1.0)
    losses.total.backward()
    given = twin.transition
    kept = {name: value[valid] for name, value in vars(given).items() if isinstance(value, torch.Tensor)}
    twin.transition = Transition(**kept)
    for name in ("estimate", "velocity", "t"):
        setattr(twin.seen, name, getattr(twin.seen, name)[valid])
    alone = twin.losses(w_dyn=1.0, w_geo=1.0, w_reg=1.0)
    alone.total.backward()
    torch.testing.assert_close(losses.total, alone.total)
    for ours, theirs in ((model.flow, twin.flow), (model.predictor, twin.predictor)):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)


def test_a_batch_without_a_valid_sample_trains_nothing_and_breaks_nothing() -> None:
    model = Model()
    model.transition = replace(model.transition, valid=torch.zeros(B, dtype=torch.bool))
    losses = model.losses(w_dyn=1.0, w_geo=1.0, w_reg=1.0)
    losses.total.backward()
    assert losses.total.item() == 0.0
    assert model.reached() == set()
    assert all(weight.grad is not None for weight in model.flow.parameters())


def test_a_repeated_batch_is_that_of_starvla() -> None:
    """``x.repeat(2, 1, 1)``: row i of the flow belongs to sample i modulo B."""
    model = Model(repeat=2)
    losses = model.losses(w_geo=1.0)
    given = model.transition
    rows = []
    for row in range(2 * B):
        part = slice(row % B, row % B + 1)
        estimate = model.seen.estimate[row : row + 1].detach()
        expected = model.predictor(given.tokens[part], given.state[part], estimate, given.between[part])
        rows.append(0.5 * (given.next_tokens[part] - expected).square().mean().item())
    assert losses.parts["geo"].item() == pytest.approx(sum(rows) / len(rows))


def test_half_precision_under_autocast_is_differentiated_in_float32() -> None:
    """The gradient that is taken inside the forward pass, under the framework's autocast, is not rounded."""
    model, world = Model(), Reaching()
    given = model.transition
    exact = Transition(given.tokens[..., :A], given.next_tokens[..., :A], None, given.actions, given.between)
    loss = SagrLosses(Weights(w_geo=1.0, w_reg=1.0), Guidance())
    plain = loss(world, exact, None, model.seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = loss(world, exact, None, model.seen)
    torch.testing.assert_close(under.total, plain.total)
    predictor = make_predictor(torch.float32)
    small = Transition(*(v.float() if v is not None and v.dtype == torch.float64 else v for v in vars(given).values()))
    slopes = []
    for enabled in (False, True):
        seen = FlowPass()
        estimate = model.seen.estimate.detach().float().requires_grad_()
        seen.estimate, seen.t, seen.velocity = estimate, model.seen.t.float(), model.seen.velocity.detach().float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = loss(predictor, small, None, seen).total
        slopes.append(torch.autograd.grad(total, estimate)[0])
    assert slopes[0].abs().sum() > 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-6, atol=1e-9)


def test_info_nce_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    # Cosines: [[1, s], [0, s]] with s = sqrt(1/2); temperature 0.5 doubles them.
    s = 2 * math.sqrt(0.5)

    def row(of: float, *others: float) -> float:
        return math.log(sum(math.exp(x) for x in (of, *others))) - of

    expected = 0.5 * ((row(2, s) + row(s, 0)) / 2 + (row(2, 0) + row(s, s)) / 2)
    assert info_nce(first, second, temperature=0.5).item() == pytest.approx(expected)


def test_frames_under_one_instruction_are_told_apart() -> None:
    """Tokens that only repeat the words are alike in all frames and pay log B; those that know their frame, nothing."""
    frames, words = torch.eye(5), torch.ones(5, 5, requires_grad=True)
    loss = info_nce(words, frames)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)
    assert words.grad.norm() > 0
    assert info_nce(frames, frames).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match=r"\[B,P\] twice"):
        info_nce(frames, frames[:2])


def test_the_alignment_loss_is_weighed_in() -> None:
    align = torch.tensor(2.0, requires_grad=True)
    losses = SagrLosses(Weights(w_align=0.5), Guidance())(make_predictor(), align=align)
    losses.total.backward()
    assert losses.total.item() == 1.0
    assert align.grad.item() == 0.5


@pytest.mark.parametrize(
    ("weights", "drop", "said"),
    [
        ({"w_fm": 1.0}, "loss", "no loss of the head"),
        ({"w_geo": 1.0}, "seen", "no FlowPass watched"),
        ({"w_reg": 1.0}, "seen", "no FlowPass watched"),
        ({"w_dyn": 1.0}, "transition", "has no next frame"),
        ({"w_align": 1.0}, "", "no InfoNCE"),
        ({}, "", "every weight is 0"),
        ({"w_dyn": -1.0}, "", "w_dyn is -1.0"),
    ],
)
def test_a_weight_without_its_input_is_refused(weights: dict[str, float], drop: str, said: str) -> None:
    model = Model()
    if drop:
        setattr(model, drop, None)
    with pytest.raises(ValueError, match=said):
        model.losses(**weights)


def test_rows_that_are_no_multiple_are_refused() -> None:
    model = Model()
    model.seen.estimate = model.seen.estimate[:2]
    with pytest.raises(ValueError, match="no multiple"):
        model.losses(w_geo=1.0)
