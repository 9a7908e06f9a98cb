"""The Gaussian routing layer against loops in float64 and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from infodyn.memory_gaussian_moe import FusedExperts, GaussianTopKRouter, MemoryGaussianMoELayer, gaussian_logits


def log_posterior(x: torch.Tensor, mean: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """log p(e | x) [N, E] by the formula, one number after another."""
    rows = []
    for point in x.double().tolist():
        densities = []
        for mu, log_s in zip(mean.double().tolist(), log_sigma.double().tolist(), strict=True):
            terms = [-0.5 * ((a - m) / math.exp(s)) ** 2 - s for a, m, s in zip(point, mu, log_s, strict=True)]
            densities.append(math.fsum(terms))
        top = max(densities)
        total = top + math.log(math.fsum(math.exp(d - top) for d in densities))
        rows.append([d - total for d in densities])
    return torch.tensor(rows, dtype=torch.float64)


def some(seed: int, tokens: int = 7, dim: int = 5, experts: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, dim, generator=generator, dtype=torch.float64)
    mean = torch.randn(experts, dim, generator=generator, dtype=torch.float64)
    return x, mean, 0.4 * torch.randn(experts, dim, generator=generator, dtype=torch.float64)


def test_the_posterior_is_the_formulas() -> None:
    x, mean, log_sigma = some(0)
    found = gaussian_logits(x, mean, log_sigma).log_softmax(-1)
    torch.testing.assert_close(found, log_posterior(x, mean, log_sigma), rtol=1e-12, atol=1e-12)


def test_two_experts_of_one_dimension_have_the_logistic_closed_form() -> None:
    # Means 1 and -1, sigma 2: log-odds = 2 x / sigma^2 = x / 2.
    x = torch.tensor([[-3.0], [0.0], [0.7]], dtype=torch.float64)
    mean, log_sigma = torch.tensor([[1.0], [-1.0]]).double(), torch.full((2, 1), math.log(2.0), dtype=torch.float64)
    found = gaussian_logits(x, mean, log_sigma).softmax(-1)[:, 0]
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(-value / 2)) for value in (-3.0, 0.0, 0.7)], rel=1e-12)
    # At the shared mean only the sigmas speak: p = (1 / s_0) / (1 / s_0 + 1 / s_1).
    log_sigma = torch.tensor([[math.log(2.0)], [math.log(6.0)]], dtype=torch.float64)
    at_mean = gaussian_logits(torch.zeros(1, 1).double(), torch.zeros(2, 1).double(), log_sigma).softmax(-1)
    assert at_mean[0, 0].item() == pytest.approx(0.75, rel=1e-12)


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_float32_far_from_the_origin_and_peaked_densities_stay_exact(far: float) -> None:
    # A square multiplied out naively loses 1000^2 * 6e-8 = 0.06 a dimension here.
    x, mean, log_sigma = some(1, tokens=20, dim=32)
    x, mean = (x + far).float(), (mean + far).float()
    expected = log_posterior(x, mean, log_sigma.float())
    found = gaussian_logits(x, mean, log_sigma.float()).log_softmax(-1).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    sharp = gaussian_logits(x, mean, torch.full_like(log_sigma, -8.0).float()).softmax(-1)
    assert torch.isfinite(sharp).all()
    torch.testing.assert_close(sharp.sum(-1), torch.ones(20))


def test_bfloat16_and_autocast_compute_in_float32() -> None:
    x, mean, log_sigma = (part.bfloat16() for part in some(2, dim=64))
    expected = log_posterior(x, mean, log_sigma)
    plain = gaussian_logits(x, mean, log_sigma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gaussian_logits(x, mean, log_sigma)
    assert plain.dtype == inside.dtype == torch.float32
    assert torch.equal(plain, inside)
    torch.testing.assert_close(plain.log_softmax(-1).double(), expected, rtol=1e-5, atol=1e-4)


def test_the_weights_are_the_probabilities_and_not_renormalised() -> None:
    x, mean, log_sigma = some(3)
    router = GaussianTopKRouter(5, 4, 2).double()
    with torch.no_grad():
        router.weight.copy_(mean)
        router.log_sigma.copy_(log_sigma)
    probabilities, weights, indices = router(x)
    expected = log_posterior(x, mean, log_sigma).exp()
    order = expected.sort(-1, descending=True)
    torch.testing.assert_close(probabilities, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weights, order.values[:, :2], rtol=1e-12, atol=1e-14)
    assert torch.equal(indices, order.indices[:, :2])
    assert (weights.sum(-1) < 1).all()
    router.norm_topk_prob = True
    torch.testing.assert_close(router(x)[1], weights / weights.sum(-1, keepdim=True))


def test_experts_are_those_of_a_loop_over_tokens() -> None:
    torch.manual_seed(4)
    experts = FusedExperts(3, 6, 5).double()
    torch.nn.init.normal_(experts.up_bias)
    torch.nn.init.normal_(experts.down_bias)
    x, weights = torch.randn(11, 3).double(), torch.rand(11, 2).double()
    # Expert 4 gets nothing, expert 0 nearly everything.
    indices = torch.tensor([[0, 1 + token % 3] for token in range(11)])
    expected = torch.zeros_like(x)
    for token in range(11):
        for choice in range(2):
            e = int(indices[token, choice])
            inner = experts.up_proj[e] @ x[token] + experts.up_bias[e]
            inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
            expected[token] += weights[token, choice] * (experts.down_proj[e] @ inner + experts.down_bias[e])
    found = experts(x, indices, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    assert experts.up_proj.grad[4].abs().max() == 0
    assert all(experts.up_proj.grad[e].abs().max() > 0 for e in range(4))


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(5)
    layer = MemoryGaussianMoELayer(3, 4, 3, 2).double()
    with torch.no_grad():
        layer.gate.log_sigma.normal_(std=0.3)
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    assert {"gate.weight", "gate.log_sigma", "experts.up_proj", "experts.down_proj"} <= set(names)

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    # Between choices of experts the layer jumps: no token may be near such a place.
    margins = layer.gate(x.flatten(0, 1))[0].sort(-1).values
    assert (margins[:, 1] - margins[:, 0]).min() > 1e-4
    assert torch.autograd.gradcheck(call, (x, *values))


def test_a_bfloat16_layer_gives_bfloat16() -> None:
    torch.manual_seed(6)
    layer = MemoryGaussianMoELayer(16, 32, 4, 2)
    x = torch.randn(3, 8, 16)
    expected = layer(x)
    found = layer.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    # bfloat16 has eight bits; a token on a border may choose another expert.
    close = ((found.float() - expected).norm(dim=-1) / expected.norm(dim=-1)).flatten()
    assert (close < 0.05).float().mean() > 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.float()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("top_k", [0, 5])
def test_too_many_or_no_experts_a_token_are_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"top_k is {top_k}, but there are 4 experts"):
        GaussianTopKRouter(8, 4, top_k)
