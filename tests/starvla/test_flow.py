"""What passes through the head's ``flow=`` keyword."""

from __future__ import annotations

import pytest
import torch
from sagr.flow import FlowPass
from sagr.guidance import Reference, ResidualGuidance
from small_worlds import A, B, Guidance, H, Reaching, inputs, make_predictor


def guided(config: Guidance | None = None, dtype: torch.dtype = torch.float64) -> tuple[FlowPass, torch.Tensor]:
    now, other = inputs(dtype, seed=1), inputs(dtype, seed=2)
    guidance = ResidualGuidance(make_predictor(), config or Guidance())
    return FlowPass(guidance, Reference(now["tokens"], now["state"], other["tokens"], now["valid"])), now["actions"]


def test_without_a_reference_the_velocity_is_the_same_tensor() -> None:
    velocity = torch.randn(B, H, A)
    for flow in (FlowPass(), FlowPass(ResidualGuidance(make_predictor(), Guidance()))):
        assert flow.guide(torch.randn(B, H, A), velocity, 0.0) is velocity
        assert flow.trace.lists()["energy"] == []


def test_a_reference_without_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="no guidance"):
        FlowPass(None, guided()[0].reference)


def test_observe_keeps_the_clean_estimate_with_its_graph_and_hands_the_loss_back() -> None:
    flow, loss = FlowPass(), torch.tensor(3.0)
    noisy, t = torch.randn(B, H, A), torch.tensor([0.0, 0.5, 0.9])[:, None, None]
    velocity = torch.randn(B, H, A, requires_grad=True)
    assert flow.observe(loss, noisy, t, velocity) is loss
    rows = [noisy[i] + (1.0 - s) * velocity[i].detach() for i, s in enumerate([0.0, 0.5, 0.9])]
    torch.testing.assert_close(flow.estimate.detach(), torch.stack(rows))
    flow.estimate.sum().backward()
    torch.testing.assert_close(velocity.grad, (1 - t).expand(B, H, A))
    with pytest.raises(RuntimeError, match="twice"):
        flow.observe(loss, noisy, t, velocity)


def test_guide_adds_the_drift_and_traces_it() -> None:
    flow, actions = guided()
    velocity = torch.randn(B, H, A, dtype=torch.float64)
    for number in range(4):
        drift = flow.guidance.drift(actions, velocity, number / 4, flow.reference)
        torch.testing.assert_close(flow.guide(actions, velocity, number / 4), velocity + drift.b)
    trace = flow.trace.lists()
    assert {name: (len(steps), len(steps[0])) for name, steps in trace.items()} == dict.fromkeys(
        ("residual_norm", "energy", "drift_norm", "velocity_norm", "cosine"), (4, B)
    )
    assert trace["energy"][-1] == pytest.approx(drift.energy.tolist())
    assert trace["residual_norm"][-1] == pytest.approx(drift.residual_norm.tolist())
    for row in range(B):
        b, v = drift.b[row].flatten(), velocity[row].flatten()
        assert trace["drift_norm"][-1][row] == pytest.approx(float(b @ b) ** 0.5)
        assert trace["velocity_norm"][-1][row] == pytest.approx(float(v @ v) ** 0.5)
        assert trace["cosine"][-1][row] == pytest.approx(float(b @ v) / float(b @ b) ** 0.5 / float(v @ v) ** 0.5)


def test_the_cosine_of_no_drift_is_zero() -> None:
    flow, actions = guided(Guidance(eta=0.0))
    flow.guide(actions, torch.randn(B, H, A, dtype=torch.float64), 0.5)
    assert flow.trace.lists()["cosine"] == [[0.0] * B]
    assert flow.trace.lists()["drift_norm"] == [[0.0] * B]


def test_the_velocity_keeps_its_dtype() -> None:
    flow, actions = guided(dtype=torch.bfloat16)
    velocity = torch.randn(B, H, A, dtype=torch.bfloat16)
    result = flow.guide(actions, velocity, 0.0)
    b = flow.guidance.drift(actions, velocity, 0.0, flow.reference).b
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, (velocity.double() + b).to(torch.bfloat16))
    assert not torch.equal(result, velocity)


def test_euler_steps_under_inference_mode_bring_the_chunk_to_the_reference() -> None:
    """A flow that ends at the old chunk, and a target that has moved by one: guidance makes up for part of it."""
    tokens = torch.zeros(1, 2, A, dtype=torch.float64)
    old = torch.full((1, H, A), 0.2, dtype=torch.float64)
    valid = torch.ones(1, H, dtype=torch.bool)

    @torch.inference_mode()
    def sample(flow: FlowPass) -> torch.Tensor:
        actions = torch.randn(old.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for number in range(4):
            t = number / 4
            actions = actions + 0.25 * flow.guide(actions, (old - actions) / (1 - t), t)
        return actions

    def miss(chunk: torch.Tensor) -> float:
        """The target lay at 1 and moved to 2; actions of 0.2 come to 1."""
        return abs(2.0 - chunk.sum(dim=1).mean().item())

    assert miss(sample(FlowPass())) == pytest.approx(1.0)
    reference = Reference(tokens + 2.0, None, tokens, valid)
    flow = FlowPass(ResidualGuidance(Reaching(), Guidance(eta=0.5, max_norm=1.0)), reference)
    assert miss(sample(flow)) < 0.7
    assert flow.trace.lists()["energy"][0][0] > 0.0
