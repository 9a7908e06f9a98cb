"""Gaussian routing in transformers' Qwen3-MoE: the first forward, what is saved, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from infodyn.gaussian_router import equidistant, use_gaussian_routing
from infodyn.memory_gaussian_moe import gaussian_logits
from infodyn.routing_history import RoutingHistory
from torch import nn

transformers = pytest.importorskip(
    "transformers", minversion="5.0", reason="the router is a module of its own since 5.0"
)


def tiny(seed: int = 0, **changes: Any) -> Any:
    """A Qwen3-MoE of two layers whose gates' rows differ in length by a factor of up to ten, as trained ones may."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "moe_intermediate_size": 16, "num_experts": 8},
        **{"num_experts_per_tok": 2, "norm_topk_prob": True, "output_router_logits": True},
    }
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes | changes)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.mul_(torch.linspace(3, 30, 8)[torch.randperm(8), None])
    return model


IDS = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(1))


def test_the_shift_makes_the_rows_equally_long_and_leaves_their_differences() -> None:
    rows = torch.randn(8, 32, dtype=torch.float64) * torch.linspace(0.1, 10, 8, dtype=torch.float64)[:, None]
    shifted = equidistant(rows)
    torch.testing.assert_close(shifted.norm(dim=-1), shifted[0].norm().expand(8), rtol=1e-12, atol=0)
    torch.testing.assert_close(shifted - shifted[0], rows - rows[0], rtol=1e-10, atol=1e-10)


def test_a_gate_of_the_closed_form_in_the_plane() -> None:
    # The circle through (0, 0), (2, 0) and (0, 4) has its centre at (1, 2): the shift is (-1, -2).
    shifted = equidistant(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(shifted, torch.tensor([[-1.0, -2.0], [1.0, -2.0], [-1.0, 2.0]]).double())


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_posterior_is_the_linear_gates_for_any_sigma(sigma: float) -> None:
    rows, x = torch.randn(8, 32, dtype=torch.float64), torch.randn(50, 32, dtype=torch.float64)
    means = equidistant(rows) * sigma**2
    found = gaussian_logits(x, means, torch.full_like(means, sigma).log()).softmax(-1)
    torch.testing.assert_close(found, (x @ rows.T).softmax(-1), rtol=1e-9, atol=1e-12)


def test_what_cannot_be_made_equal_is_reported() -> None:
    # Points on a line lie on no circle: a shift along it takes from w^2 / 2 the linear part only.
    model = tiny()
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.copy_(torch.arange(8.0)[:, None] * torch.eye(32)[0])
    line = torch.arange(8.0, dtype=torch.float64)
    line = line - line.mean()
    bowl = 0.5 * line.square()
    expected = (bowl - bowl.mean()).abs().max().item()
    found = use_gaussian_routing(model)
    assert found[0].remains == pytest.approx(expected, rel=1e-6)
    assert found[1].remains is not None
    assert found[1].remains < 1e-4


@pytest.mark.parametrize("normalised", [True, False])
def test_the_first_forward_routes_alike(normalised: bool) -> None:
    model = tiny(norm_topk_prob=normalised)
    before = model(IDS, labels=IDS)
    shown: dict[str, Any] = {}
    gate = model.model.layers[1].mlp.gate
    gate.register_forward_hook(lambda module, arguments, output: shown.update(x=arguments[0], y=output))
    names = [found.name for found in use_gaussian_routing(model)]
    assert names == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
    after = model(IDS, labels=IDS)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.loss, before.loss)
    assert len(after.router_logits) == 2
    for old, new in zip(before.router_logits, after.router_logits, strict=True):
        assert new.dtype == old.dtype == torch.float32
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-6)
        assert torch.equal(new.topk(2).indices, old.topk(2).indices)
    probabilities, weights, indices = shown["y"]
    assert [part.shape for part in shown["y"]] == [(64, 8), (64, 2), (64, 2)]
    total = weights.sum(-1)
    assert torch.allclose(total, torch.ones(64)) is normalised
    assert torch.equal(probabilities.argmax(-1), indices[:, 0])
    # And it is no linear gate: x^2 counts as soon as the sigmas differ.
    with torch.no_grad():
        gate.log_sigma[0] += 0.1
    x = shown["x"].double()
    square = -0.5 * ((x[:, None] - gate.weight.double()) / gate.log_sigma.double().exp()).square().sum(-1)
    expected = (square - gate.log_sigma.double().sum(-1)).softmax(-1)
    torch.testing.assert_close(gate(shown["x"])[0].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_what_remains_is_that_of_the_stored_means(dtype: torch.dtype, sigma: float) -> None:
    model = tiny().to(dtype)
    gates = [layer.mlp.gate for layer in model.model.layers]
    linear = [gate.weight.detach().double() for gate in gates]
    found = use_gaussian_routing(model, sigma=sigma)
    x = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for gate, rows, report in zip(gates, linear, found, strict=True):
        mean, log_sigma = gate.weight.detach().double(), gate.log_sigma.detach().double()
        away = [((x - m) / s.exp()).square().sum(-1) for m, s in zip(mean, log_sigma, strict=True)]
        error = -0.5 * torch.stack(away, -1) - log_sigma.sum(-1) - x @ rows.T
        error = error - error.mean(-1, keepdim=True)
        assert report.remains == pytest.approx(float(error.square().mean(0).sqrt().max()), rel=0.05)
        assert report.remains > 1e-3 or dtype == torch.float32


def test_in_bfloat16_nearly_every_choice_is_the_same() -> None:
    model = tiny().bfloat16()
    before = model(IDS).router_logits
    use_gaussian_routing(model)
    after = model(IDS).router_logits
    assert model.model.layers[0].mlp.gate.log_sigma.dtype == torch.bfloat16
    same = [(a.topk(2).indices == b.topk(2).indices).float().mean() for a, b in zip(before, after, strict=True)]
    assert min(same) > 0.9


def test_save_pretrained_and_back(tmp_path: Path) -> None:
    model = tiny()
    use_gaussian_routing(model, top_k=3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.log_sigma.normal_(std=0.2)
    expected = model(IDS).logits
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (again.config.moe_router, again.config.num_experts_per_tok) == ("gaussian", 3)
    assert [found.remains for found in use_gaussian_routing(again)] == [None, None]
    assert torch.equal(again(IDS).logits, expected)
    # Many small files, as large models are saved.
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    parts = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts").eval()
    use_gaussian_routing(parts)
    assert torch.equal(parts(IDS).logits, expected)
    other = tiny(seed=5)
    use_gaussian_routing(other, top_k=3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(IDS).logits, expected)


def test_a_checkpoint_without_its_sigmas_is_an_error(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    model.config.moe_router = "gaussian"
    with pytest.raises(ValueError, match=r"has no model.layers.0.mlp.gate.log_sigma \(it has no log_sigma at all\)"):
        use_gaussian_routing(model, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="give the checkpoint's folder"):
        use_gaussian_routing(model, checkpoint=tmp_path / "nowhere")


def test_it_trains_and_remembers() -> None:
    model = tiny().train()
    use_gaussian_routing(model)
    history = RoutingHistory()
    assert len(history.watch(model)) == 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(12):
        with history.recording("text", torch.ones(4, 16)):
            loss = model(IDS, labels=IDS).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + history.loss(0.1)).backward()
        optimizer.step()
        if step == 5:
            history.end_epoch()
    assert losses[-1] < losses[0] - 1
    for layer in model.model.layers:
        assert layer.mlp.gate.log_sigma.abs().max() > 1e-3


class Sigmoid(nn.Module):
    """A gate of another rule with the same attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.top_k, self.num_experts = nn.Parameter(torch.randn(4, 6)), 2, 4

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = (x @ self.weight.T).sigmoid()
        return (scores, *scores.topk(2))


def test_other_gates_are_refused_and_named() -> None:
    with pytest.raises(ValueError, match=r"0 \(Sigmoid\) does not route by softmax"):
        use_gaussian_routing(nn.Sequential(Sigmoid()))
    with pytest.raises(ValueError, match="Linear has no gate"):
        use_gaussian_routing(nn.Linear(3, 3))
    model = tiny()
    use_gaussian_routing(model)
    with pytest.raises(ValueError, match="already"):
        use_gaussian_routing(model)
    with pytest.raises(ValueError, match="8 experts"):
        use_gaussian_routing(tiny(), top_k=9)
    with torch.device("meta"):
        empty = transformers.Qwen3MoeForCausalLM(tiny().config)
    with pytest.raises(ValueError, match="not in memory"):
        use_gaussian_routing(empty)
