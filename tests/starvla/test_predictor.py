"""The world predictor against a transformer written with loops in NumPy, and what its mask and dtypes must hold to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sagr.predictor import WorldPredictor
from small_worlds import DS, A, B, D, H, inputs, make_predictor


def reference(predictor: WorldPredictor, given: dict) -> np.ndarray:
    """S + MLP(Attn(...)) in float64, sample by sample, head by head; actions that are not valid are left out."""
    weight = {name: value.detach().numpy() for name, value in predictor.named_parameters()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))

    results = []
    for row in range(len(given["tokens"])):
        tokens, valid = given["tokens"][row].numpy(), given["valid"][row].numpy()
        actions = linear("action_in", given["actions"][row].numpy()[valid]) + weight["position"][valid]
        parts = [linear("token_in", tokens), weight["duration"][valid.sum()][None]]
        if given["state"] is not None:
            parts.append(linear("state_in", given["state"][row].numpy()))
        x = np.concatenate([*parts, actions])
        for block in (f"blocks.{number}" for number in range(len(predictor.blocks))):
            normed = norm(f"{block}.before_attention", x)
            query = linear(f"{block}.query", normed)
            key, value = np.split(linear(f"{block}.key_value", normed), 2, axis=-1)
            heads = predictor.blocks[0].heads
            width = query.shape[-1] // heads
            mixed = np.zeros_like(query)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(width))
                mixed[:, part] = scores / scores.sum(-1, keepdims=True) @ value[:, part]
            x = x + linear(f"{block}.out", mixed)
            x = x + linear(f"{block}.mlp.2", gelu(linear(f"{block}.mlp.0", norm(f"{block}.before_mlp", x))))
        change = linear("change.2", gelu(linear("change.0", norm("norm", x))))
        results.append(tokens + change[: len(tokens)])
    return np.stack(results)


@pytest.mark.parametrize("state", [True, False])
def test_the_same_as_with_loops_in_float64(state: bool) -> None:
    given = inputs(state=state)
    predictor = make_predictor(state_dim=DS if state else None)
    np.testing.assert_allclose(predictor(**given).detach().numpy(), reference(predictor, given), rtol=1e-11, atol=1e-11)


def test_starts_as_the_identity_and_then_learns() -> None:
    torch.manual_seed(0)
    predictor, given = WorldPredictor(D, DS, A, H, layers=2, hidden=8, heads=2), inputs(torch.float32)
    assert torch.equal(predictor(**given), given["tokens"])
    predictor(**given).square().mean().backward()
    assert predictor.change[-1].weight.grad.abs().sum() > 0


def test_without_a_mask_all_actions_are_executed() -> None:
    given, predictor = inputs(), make_predictor()
    everything = torch.ones(B, H, dtype=torch.bool)
    assert torch.equal(predictor(**{**given, "valid": None}), predictor(**{**given, "valid": everything}))
    assert not torch.equal(predictor(**{**given, "valid": None}), predictor(**given))


@pytest.mark.parametrize("filler", [1e30, float("nan"), float("inf")])
def test_masked_actions_have_exactly_no_influence(filler: float) -> None:
    given, predictor = inputs(), make_predictor()
    changed = given["actions"].masked_fill(~given["valid"][..., None], filler)
    assert torch.equal(predictor(**{**given, "actions": changed}), predictor(**given))
    leaf = changed.clone().requires_grad_()
    predictor(**{**given, "actions": leaf}).sum().backward()
    assert (leaf.grad[~given["valid"]] == 0).all()
    assert (leaf.grad[given["valid"]] != 0).all()


def test_a_sample_without_actions_comes_back_and_the_others_do_not() -> None:
    given, predictor = inputs(), make_predictor()
    valid = given["valid"].clone()
    valid[1] = False
    result = predictor(**{**given, "valid": valid})
    assert torch.equal(result[1], given["tokens"][1])
    assert torch.equal(result[[0, 2]], predictor(**given)[[0, 2]])


def test_rows_are_independent() -> None:
    given, predictor = inputs(), make_predictor()
    alone = predictor(**{name: value[1:2] for name, value in given.items()})
    torch.testing.assert_close(predictor(**given)[1:2], alone, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision_around_it_is_computed_in_float32(weights: torch.dtype) -> None:
    given, predictor = inputs(torch.bfloat16), make_predictor(weights)
    exact = make_predictor(weights).to(torch.float64)
    wide = {name: value if value.dtype == torch.bool else value.double() for name, value in given.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = predictor(**given)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact(**wide), rtol=2e-5, atol=2e-5)
    result.sum().backward()
    assert predictor.position.grad.dtype == weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": torch.zeros(B, 4, D + 1)}, r"task tokens must be \[B,Ns,6\]"),
        ({"actions": torch.zeros(B, H, A + 1)}, r"actions must be \[3,5,2\], got \[3, 5, 3\]"),
        ({"actions": torch.zeros(B, H - 1, A)}, r"actions must be \[3,5,2\], got \[3, 4, 2\]"),
        ({"state": None}, "no state was given"),
        ({"state": torch.zeros(B, 1, DS + 2)}, r"state must be \[3,1,3\]"),
        ({"valid": torch.ones(B, H)}, "valid must be bool"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_predictor()(**{**inputs(), **change})


def test_a_state_for_a_predictor_without_is_refused() -> None:
    with pytest.raises(ValueError, match="a state was given"):
        make_predictor(state_dim=None)(**inputs())


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="heads 3 does not divide hidden 8"):
        WorldPredictor(D, DS, A, H, hidden=8, heads=3)
    with pytest.raises(ValueError, match="layers is 0"):
        WorldPredictor(D, DS, A, H, layers=0)
