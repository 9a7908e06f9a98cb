"""Causal feedback tokens against a float64 loop; masks, detaching, the gate, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from sagr.feedback import CausalFeedback

DIM, ACTION, OUT = 6, 4, 5


def make(**options: object) -> CausalFeedback:
    torch.manual_seed(0)
    return CausalFeedback(DIM, ACTION, OUT, **options)


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((3, 2, DIM), (3, 2, DIM), (3, 4, ACTION))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


@pytest.mark.parametrize(("gate", "valid"), [(None, None), (0.7, [True, False, True])])
def test_matches_a_float64_loop(gate: float | None, valid: list[bool] | None) -> None:
    module = make(tokens=2, scale=0.5, gate=gate is not None).double()
    if gate is not None:
        with torch.no_grad():
            module.gate.fill_(gate)
    before, after, actions = batch(torch.float64)
    executed = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    tokens = module(before, after, actions, None if valid is None else torch.tensor(valid), executed)
    assert tokens.shape == (3, 2, OUT)
    first, last = module.mlp[0], module.mlp[3]
    for b in range(3):
        x = [sum(after[b, s, d].item() - before[b, s, d].item() for s in range(2)) / 2 for d in range(DIM)]
        kept = [i for i in range(4) if executed[b, i]]
        x += [sum(actions[b, i, a].item() for i in kept) / len(kept) for a in range(ACTION)]
        hidden = [
            sum(w * v for w, v in zip(row, x, strict=True)) + bias
            for row, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
        ]
        hidden = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in hidden]
        for k in range(2):
            for d in range(OUT):
                row = k * OUT + d
                value = sum(w * v for w, v in zip(last.weight[row].tolist(), hidden, strict=True))
                value = (value + last.bias[row].item()) * 0.5 * (1 if gate is None else math.tanh(gate))
                value = 0.0 if valid is not None and not valid[b] else value
                assert tokens[b, k, d].item() == pytest.approx(value, rel=1e-12, abs=1e-14)


def test_rows_that_are_not_valid_give_zeros_and_touch_no_gradient() -> None:
    module = make()
    before, after, actions = batch()
    valid = torch.tensor([1, 0, 1])
    after[1] = math.nan
    tokens = module(before, after, actions, valid)
    assert (tokens[1] == 0).all()
    tokens.square().sum().backward()
    got = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    rows = [0, 2]
    module(before[rows], after[rows], actions[rows]).square().sum().backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(got[name], p.grad, msg=name)
    assert (make(use_valid_mask=False)(before, batch()[1], actions, valid)[1] != 0).any()


def test_all_rows_invalid_still_use_every_parameter() -> None:
    module = make(gate=True)
    module(*batch(), torch.zeros(3)).sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("action", [True, False])
def test_detaching(delta: bool, action: bool) -> None:
    module = make(detach_delta=delta, detach_action=action)
    before, after, actions = (x.requires_grad_() for x in batch())
    module(before, after, actions).square().sum().backward()
    assert (before.grad is None) == (after.grad is None) == delta
    assert (actions.grad is None) == action
    if not delta:
        torch.testing.assert_close(before.grad, -after.grad)


def test_the_gate_starts_shut_and_opens() -> None:
    module, inputs = make(gate=True), batch()
    target = torch.ones(3, 1, OUT)
    tokens = module(*inputs)
    assert (tokens == 0).all()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (module(*inputs) - target).square().mean().backward()
        optimizer.step()
    assert module.gate.abs() > 1e-4
    assert module.mlp[0].weight.grad.abs().max() > 0
    assert [n for n, _ in make().named_parameters() if "gate" in n] == []


def test_no_action_executed_is_a_context_of_zeros() -> None:
    before, after, actions = batch()
    nothing = make()(before, after, actions, executed=torch.zeros(3, 4).bool())
    torch.testing.assert_close(nothing, make()(before, after, torch.zeros_like(actions)))


def test_bfloat16_sums_in_float32() -> None:
    module = make().bfloat16()
    before = torch.full((1, 256, DIM), 1.0, dtype=torch.bfloat16)
    after = before.clone()
    after[:, 0] += 1  # a change of 1/256 of the mean, which bfloat16 cannot show beside 1
    still, moved = (module(before, x, torch.zeros(1, 1, ACTION)) for x in (before, after))
    assert moved.dtype == torch.bfloat16
    assert not torch.equal(still, moved)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert make()(*batch()).isfinite().all()


def test_dropout_acts_in_training_only() -> None:
    module = make(dropout=0.5)
    assert not torch.equal(module(*batch()), module(*batch()))
    module.eval()
    assert torch.equal(module(*batch()), make()(*batch()))


def test_refuses_what_does_not_fit() -> None:
    before, after, actions = batch()
    with pytest.raises(ValueError, match=r"actions \(3, 4, 3\) must be \[3, H, 4\].*action_dim"):
        make()(before, after, actions[..., :3])
    with pytest.raises(ValueError, match=r"before \(3, 1, 6\) and after \(3, 2, 6\)"):
        make()(before[:, :1], after, actions)
    with pytest.raises(ValueError, match=r"causal_feedback_token_num = 0"):
        make(tokens=0)
