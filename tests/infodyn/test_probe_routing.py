"""Which experts are active: read from routers of every kind, counted against loops over tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from infodyn.module_paths import ProbeError, modules_by_path
from infodyn.moe_layers import find_moe_layers
from infodyn.routed import chosen_experts, expert_alone
from moe_toys import ListedMoE, chosen_by_loop, classifier, fused_expert_by_hand, tiny_language_model
from torch import nn

LOGITS = torch.randn(11, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
CHOSEN = [set(row) for row in chosen_by_loop(LOGITS, 2)]
WEIGHTS, INDICES = LOGITS.softmax(-1).topk(2)


def sets(indices: torch.Tensor) -> list[set[int]]:
    return [set(row) for row in indices.tolist()]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("integers", [torch.int64, torch.int32])
def test_a_tuple_in_any_order(order: tuple[int, ...], integers: torch.dtype) -> None:
    output = (LOGITS, WEIGHTS, INDICES.to(integers))
    found = chosen_experts(tuple(output[place] for place in order), 5, 2, "gate")
    assert found.dtype == torch.int64
    assert sets(found) == CHOSEN


def test_indices_hold_against_logits_that_say_otherwise() -> None:
    """A router with groups or a correction does not choose the largest logits."""
    assert torch.equal(chosen_experts((LOGITS, 4 - INDICES), 5, 2, "gate"), 4 - INDICES)


@pytest.mark.parametrize("output", [LOGITS, (LOGITS.softmax(-1), LOGITS), LOGITS.view(1, 11, 5)])
def test_logits_alone(output: object) -> None:
    assert sets(chosen_experts(output, 5, 2, "gate")) == CHOSEN


def test_scores_that_are_zero_where_not_chosen() -> None:
    scores = torch.zeros_like(LOGITS).scatter(1, INDICES, WEIGHTS)
    assert sets(chosen_experts((scores, LOGITS), 5, 2, "gate")) == CHOSEN


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_mask_with_dropped_tokens(dtype: torch.dtype) -> None:
    mask = torch.zeros(3, 5, dtype=dtype)
    mask[0, 4] = mask[2, 1] = mask[2, 3] = 1
    assert sets(chosen_experts((LOGITS[:3], mask), 5, 2, "gate")) == [{4, -1}, {-1}, {1, 3}]
    assert sets(chosen_experts((LOGITS[:3], mask), 5, None, "gate")) == [{4, -1}, {-1}, {1, 3}]


def test_all_experts_chosen_are_indices_and_no_mask() -> None:
    assert sets(chosen_experts((LOGITS, LOGITS.argsort(-1)), 5, 5, "gate")) == [set(range(5))] * 11


def test_logits_without_top_k_and_other_outputs_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"layers\.0\.gate gives logits alone.*set router\.top_k"):
        chosen_experts(LOGITS, 5, None, "layers.0.gate")
    with pytest.raises(ProbeError, match=r"gives \[\[11, 3\]\].*logits \[\.\.\., 5\]"):
        chosen_experts(LOGITS[:, :3], 5, 2, "gate")


def test_layers_of_modules_are_found() -> None:
    layers = find_moe_layers(modules_by_path(classifier()))
    assert [(each.experts, each.router, each.top_k, each.fused) for each in layers] == [
        (f"blocks.{number}.moe.experts", f"blocks.{number}.moe.gate", 2, False) for number in range(2)
    ]
    assert layers[1].paths == [f"blocks.1.moe.experts.{expert}" for expert in range(5)]


@pytest.mark.parametrize(("kind", "experts"), [("qwen3", 5), ("mixtral", 4)])
def test_fused_layers_are_found(kind: str, experts: int) -> None:
    layers = find_moe_layers(modules_by_path(tiny_language_model(kind)))
    assert [(each.experts, each.router, each.top_k, each.fused) for each in layers] == [
        (f"model.layers.{number}.mlp.experts", f"model.layers.{number}.mlp.gate", 2, True) for number in range(2)
    ]
    assert layers[0].names == tuple(map(str, range(experts)))


def test_a_gate_of_something_else_is_no_router() -> None:
    block = nn.Module()
    block.moe = ListedMoE(6, 5, 2)
    block.moe.shared_expert_gate = nn.Linear(6, 1)
    assert find_moe_layers(modules_by_path(block))[0].router == "moe.gate"
    block.moe.gate = nn.Linear(6, 4)
    assert find_moe_layers(modules_by_path(block))[0].router is None


@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_one_of_fused_experts_alone(kind: str, implementation: str) -> None:
    model = tiny_language_model(kind)
    model.set_experts_implementation(implementation)
    experts = model.model.layers[0].mlp.experts
    hidden, rows = torch.randn(2, 6, 16, dtype=torch.float64)
    expected = [fused_expert_by_hand(experts, expert, rows) for expert in range(experts.num_experts)]
    # The grouped product takes no float64.
    exact = implementation != "grouped_mm"
    model.to(torch.float64 if exact else torch.float32)
    near = 1e-9 if exact else 1e-4
    hidden, rows = (each if exact else each.float() for each in (hidden, rows))
    indices = torch.tensor([[0, 1], [2, 3], [3, 1], [0, 2], [1, 2], [3, 0]])
    weights = torch.rand(6, 2, dtype=hidden.dtype)
    for expert, by_hand in enumerate(expected):
        for args, kwargs in (
            ((hidden, indices, weights), {}),
            ((hidden,), {"top_k_weights": weights, "top_k_index": indices}),
        ):
            found = expert_alone(experts, args, kwargs, rows, expert, len(expected))
            torch.testing.assert_close(found.double(), by_hand, rtol=near, atol=near)


def test_experts_that_are_told_no_indices_cannot_be_asked_alone() -> None:
    with pytest.raises(ProbeError, match="probe their block instead"):
        expert_alone(nn.Identity(), (LOGITS,), {}, LOGITS[:2], 0, 5)


def test_as_many_choices_as_experts() -> None:
    """Weights [tokens, experts] are read by expert in some libraries, by choice in others."""

    class ByExpert(nn.Module):
        def forward(self, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return sum((expert + 1) * hidden * weights[:, expert, None] for expert in range(5))

    class ByChoice(nn.Module):
        def forward(self, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return ((indices + 1).to(weights) * weights).sum(-1, keepdim=True) * hidden

    call = (LOGITS, LOGITS.argsort(-1), LOGITS.softmax(-1))
    for module in (ByExpert(), ByChoice()):
        for expert in range(5):
            found = expert_alone(module, call, {}, LOGITS[:3], expert, 5)
            torch.testing.assert_close(found, (expert + 1) * LOGITS[:3])
