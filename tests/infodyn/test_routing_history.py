"""The memory of routing: its KL against closed forms, its epochs, and where its gradient goes."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import routing_ranks
import torch
from infodyn.memory_gaussian_moe import MemoryGaussianMoELayer
from infodyn.routing_history import RoutingHistory, mixture_kl
from torch import nn
from torch.utils.checkpoint import checkpoint


def kl(p: list[float], h: list[float], pi: float) -> float:
    return math.fsum(a * math.log(a / (pi * a + (1 - pi) * b)) for a, b in zip(p, h, strict=True) if a > 0)


P, H = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]


@pytest.mark.parametrize("pi", [0.0, 0.25, 0.9])
def test_the_kl_is_the_closed_form(pi: float) -> None:
    p, h = torch.tensor(P, dtype=torch.float64), torch.tensor(H, dtype=torch.float64)
    assert mixture_kl(p, h, pi).item() == pytest.approx(kl(P, H, pi), rel=1e-12)
    rows = mixture_kl(torch.stack([p, h]), h, pi)
    assert rows.tolist() == pytest.approx([kl(P, H, pi), 0.0], rel=1e-12, abs=1e-15)


def test_two_experts_by_hand() -> None:
    # KL((1, 0) || 1/2 (1, 0) + 1/2 (0, 1)) = log 2.
    assert mixture_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5).item() == pytest.approx(math.log(2))


def test_full_integrity_leaves_the_model_alone() -> None:
    p = torch.tensor(P, requires_grad=True)
    loss = mixture_kl(p, torch.tensor(H), 1.0)
    loss.backward()
    assert loss.item() == 0
    assert p.grad is not None
    assert p.grad.abs().max() == 0


def test_the_gradient_is_that_of_finite_differences_through_both_places() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    h = torch.tensor(H, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: mixture_kl(z.softmax(-1), h, 0.3), (logits,))


def test_certain_routing_has_finite_gradients() -> None:
    logits = torch.tensor([200.0, 0.0, 0.0], requires_grad=True)
    p = logits.softmax(-1)
    assert p[1] == 0
    mixture_kl(p, torch.tensor([0.0, 1.0, 0.0]), 0.0).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("pi", [-0.1, 1.1, math.nan])
def test_an_integrity_that_is_none_is_refused(pi: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mixture_kl(torch.tensor(P), torch.tensor(H), pi)


def two_layers(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(MemoryGaussianMoELayer(6, 8, 4, 2), MemoryGaussianMoELayer(6, 8, 4, 2)).double()


def test_an_epoch_is_the_mean_over_its_tokens_and_the_last_ones_are_kept() -> None:
    history = RoutingHistory(window=2)
    model = two_layers()
    assert history.watch(model) == ["0.gate", "1.gate"]
    means = []
    for epoch in range(3):
        batches = [torch.randn(tokens, 6, dtype=torch.float64) + epoch for tokens in (3, 9)]
        for batch in batches:
            with history.recording("a"):
                model(batch)
        model(batches[0] + 5)  # an evaluation: not recorded
        # Means over tokens, not over batches.
        means.append(model[0].gate(torch.cat(batches))[0].mean(0))
        history.end_epoch()
    torch.testing.assert_close(history.history("a", "0.gate"), (means[1] + means[2]) / 2, rtol=1e-12, atol=1e-14)
    assert history.history("b", "0.gate") is None
    assert history.history("a", "1.gate") is not None


def test_the_loss_is_the_weighted_mean_over_layers_of_the_tasks_own_kl() -> None:
    history = RoutingHistory(weight=0.1)
    model = two_layers()
    history.watch(model)
    first, other, second = (torch.randn(8, 6, dtype=torch.float64) + shift for shift in (0, 3, 1))
    for task, batch in (("a", first), ("b", other)):
        with history.recording(task):
            model(batch)
        assert history.loss(0.2).item() == 0  # no epoch yet
    history.end_epoch()
    with history.recording("a"):
        model(second)
    found = history.loss(0.2)

    inputs = {0: (first, second), 1: (model[0](first), model[0](second))}
    expected = 0.0
    for layer, (before, now) in inputs.items():
        h, p = (model[layer].gate(x)[0].mean(0).tolist() for x in (before, now))
        expected += 0.1 * kl(p, h, 0.2) / 2
    assert expected > 1e-4
    assert found.item() == pytest.approx(expected, rel=1e-9)
    found.backward()
    # Through the current distribution it reaches both routers, and what feeds the second.
    assert all(layer.gate.weight.grad.abs().max() > 0 for layer in model)
    assert model[0].experts.up_proj.grad.abs().max() > 0


def test_a_step_along_the_gradient_brings_the_routing_nearer_to_its_history() -> None:
    history = RoutingHistory(weight=1.0)
    model = two_layers()
    history.watch(model)
    batch = torch.randn(32, 6, dtype=torch.float64)
    with history.recording("a"):
        model(batch)
    history.end_epoch()
    with torch.no_grad():
        model[0].gate.weight.add_(torch.randn(4, 6, dtype=torch.float64))
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=1.0), []
    for _ in range(30):
        with history.recording("a"):
            model(batch)
        loss = history.loss(0.0)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_padding_does_not_count() -> None:
    model = two_layers()
    batch = torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    found = []
    for values in (batch, torch.where(mask[..., None].bool(), batch, 99.0)):
        history = RoutingHistory()
        history.watch(model)
        with history.recording("a", mask):
            model(values)
        history.end_epoch()
        found.append(history.history("a", "0.gate"))
        history.close()
    torch.testing.assert_close(*found)
    torch.testing.assert_close(found[0], model[0].gate(batch[mask.bool()])[0].mean(0))
    history.watch(model)
    with pytest.raises(ValueError, match=r"8 places, 0\.gate routed 4 tokens"), history.recording("a", mask):
        model(batch[0])


def test_its_state_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    model = two_layers()
    batches = [torch.randn(5, 6, dtype=torch.float64) for _ in range(6)]

    def run(history: RoutingHistory, these: list[torch.Tensor]) -> None:
        history.watch(model)
        for batch in these:
            with history.recording("a"):
                model(batch)
        history.close()

    whole, first, second = RoutingHistory(), RoutingHistory(), RoutingHistory()
    run(whole, batches[:2])
    whole.end_epoch()
    run(whole, batches[2:])
    whole.end_epoch()
    run(first, batches[:2])
    first.end_epoch()
    run(first, batches[2:4])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    run(second, batches[4:])
    second.end_epoch()
    assert torch.equal(second.history("a", "1.gate"), whole.history("a", "1.gate"))


def body(layers: nn.Sequential, batch: torch.Tensor, reentrant: bool | None) -> torch.Tensor:
    """Each layer checkpointed by itself, as transformers does; None: not at all."""
    for layer in layers:
        batch = batch + (layer(batch) if reentrant is None else checkpoint(layer, batch, use_reentrant=reentrant))
    return batch


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])])
def test_checkpointing_counts_a_token_once_and_keeps_the_gradient(mask: torch.Tensor | None) -> None:
    model, batch = two_layers(), torch.randn(2, 4, 6, dtype=torch.float64)
    found = []
    for reentrant in (None, False):
        history = RoutingHistory()
        history.watch(model)
        with history.recording("a", mask):
            model(batch + 1)
        history.end_epoch()
        with history.recording("a", mask):
            out = body(model, batch, reentrant)
        model.zero_grad()
        (out.sum() + history.loss(0.0)).backward()
        history.end_epoch()
        found.append([*(layer.gate.weight.grad.clone() for layer in model), history.history("a", "0.gate")])
        history.close()
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_reentrant_checkpointing_and_frozen_routers_are_refused_where_they_would_teach_nothing() -> None:
    model, batch = two_layers(), torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    history = RoutingHistory()
    history.watch(model)
    with history.recording("a"):
        # The second layer has a graph; the first would be left out in silence.
        model[1](checkpoint(model[0], batch, use_reentrant=True))
    with pytest.raises(RuntimeError, match=r"0\.gate ran without a graph.*use_reentrant=False"):
        history.loss(0.0)
    with torch.no_grad():
        assert history.loss(0.0) == 0
    model.requires_grad_(False)
    with history.recording("a"):
        model(batch.detach())
    with pytest.raises(RuntimeError, match="frozen"):
        history.loss(0.0)


def test_two_ranks_hold_the_mean_over_the_tokens_of_both(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [sys.executable, routing_ranks.__file__]
    ranks = [
        subprocess.Popen([*words, str(rank), "2", str(tmp_path / "store"), str(tmp_path / "state")], env=environment)
        for rank in (0, 1)
    ]
    try:
        assert [rank.wait(timeout=150) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    first, second = (torch.load(tmp_path / f"state.{rank}", weights_only=True)["epochs"] for rank in (0, 1))
    both = torch.cat([routing_ranks.routing(0, 2), routing_ranks.routing(1, 6)]).double()
    for found in (first, second):
        torch.testing.assert_close(found["a"]["gate"][0], both.mean(0), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found["b"]["gate"][0], routing_ranks.routing(1, 1)[0].double())
    assert torch.equal(first["a"]["gate"][0], second["a"]["gate"][0])


def test_what_cannot_be_is_refused() -> None:
    history = RoutingHistory()
    with pytest.raises(ValueError, match="no Gaussian router"):
        history.watch(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="no forward"):
        history.loss(0.5)
    with pytest.raises(ValueError, match="at least 1"):
        RoutingHistory(window=0)
