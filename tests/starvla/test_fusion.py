"""Fusion: mean pooling against loops, the context's order and mask, and gradients from the context to the encoder."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sagr.feedback import CausalFeedback
from sagr.fusion import FusionModule
from sagr.geometry.base import View
from sagr.geometry.depth import DepthGeometry

TEXT, GEOMETRY, DIM, CONTEXT = 6, 10, 16, 12


def make(**options: object) -> FusionModule:
    torch.manual_seed(0)
    return FusionModule(TEXT, GEOMETRY, DIM, CONTEXT, **{"slots": 3, "heads": 4, **options})


def batch(samples: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    text, geometry = (torch.randn(samples, n, d, generator=generator) for n, d in ((5, TEXT), (7, GEOMETRY)))
    text_mask, geometry_mask = torch.ones(samples, 5).bool(), torch.ones(samples, 7).bool()
    text_mask[1:, -2:] = geometry_mask[1:, -2:] = False
    return text, text_mask, geometry, geometry_mask


def layers(samples: int = 2, count: int = 3, length: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(samples, length, CONTEXT, generator=generator).to(dtype) for _ in range(count)]


def test_with_the_anchor_its_tokens_come_out() -> None:
    module = make()
    assert module.slots == 3
    tokens, attention = module(*batch(), return_attention=True)
    expected = module.anchor(*batch(), return_attention=True)
    assert torch.equal(tokens, expected.tokens)
    assert torch.equal(attention, expected.attention)


def test_without_it_one_token_is_the_masked_mean_of_float64_loops() -> None:
    module = make(anchor=False).double()
    assert module.slots == 1
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    inputs = [x.double() if x.is_floating_point() else x for x in batch()]
    tokens, attention = module(*inputs, return_attention=True)
    norm, project = module.pool.norm, module.pool.project
    for b in range(2):
        valid = [i for i in range(7) if inputs[3][b, i]]
        mean = [0.0] * GEOMETRY
        for i in valid:
            x = inputs[2][b, i].tolist()
            centre = sum(x) / GEOMETRY
            root = math.sqrt(sum((v - centre) ** 2 for v in x) / GEOMETRY + norm.eps)
            for d in range(GEOMETRY):
                mean[d] += ((x[d] - centre) / root * norm.weight[d].item() + norm.bias[d].item()) / len(valid)
        out = [
            sum(w * v for w, v in zip(row.tolist(), mean, strict=True)) + bias.item()
            for row, bias in zip(project.weight, project.bias, strict=True)
        ]
        centre = sum(out) / DIM
        root = math.sqrt(sum((v - centre) ** 2 for v in out) / DIM + module.pool.out.eps)
        expected = torch.tensor([(v - centre) / root for v in out], dtype=torch.float64)
        torch.testing.assert_close(tokens[b, 0], expected, rtol=1e-10, atol=1e-10)
        for i in range(7):
            assert attention[b, 0, i].item() == pytest.approx(1 / len(valid) if i in valid else 0.0, abs=1e-7)


def test_mean_pooling_ignores_padding_and_the_instruction() -> None:
    module = make(anchor=False)
    text, text_mask, geometry, geometry_mask = batch()
    plain = module(text, text_mask, geometry, geometry_mask).tokens
    longer = torch.cat([geometry, torch.full((2, 50, GEOMETRY), math.nan)], 1)
    mask = torch.cat([geometry_mask, torch.zeros(2, 50).bool()], 1)
    torch.testing.assert_close(module(text + 1, text_mask, longer, mask).tokens, plain, rtol=0, atol=1e-6)
    blind = geometry_mask.clone()
    blind[1] = False
    with pytest.raises(ValueError, match=r"no valid geometry token in sample\(s\) \[1\]"):
        module(text, text_mask, geometry, blind)


def test_only_what_is_on_is_built() -> None:
    assert [name for name, _ in make(anchor=False).named_parameters() if name.startswith("anchor")] == []
    assert [name for name, _ in make().named_parameters() if name.startswith("pool")] == []


@pytest.mark.parametrize("anchor", [True, False])
def test_context_is_feedback_then_task_then_vision_language(anchor: bool) -> None:
    module, vl = make(anchor=anchor, feedback_scale=0.5), layers()
    tokens = module(*batch()).tokens
    feedback = torch.randn(2, 2, CONTEXT)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    context, full = module.context(vl, mask, tokens, feedback)
    ns = module.slots
    task = tokens @ module.project.weight.T + module.project.bias
    assert len(context) == 3
    for layer, original in zip(context, vl, strict=True):
        torch.testing.assert_close(layer, torch.cat([feedback / 2, task, original], 1))
        assert torch.equal(layer[:, -4:], original)
    assert full.dtype == torch.bool
    assert full.tolist() == [[True] * (2 + ns) + [bool(m) for m in row] for row in mask.tolist()]
    context, full = module.context(vl, None, tokens)
    assert full is None
    assert [tuple(layer.shape) for layer in context] == [(2, ns + 4, CONTEXT)] * 3


def test_rows_without_valid_feedback_are_what_they_are_without_feedback() -> None:
    module, vl = make(add_feedback=True), layers(count=1)
    tokens = module(*batch()).tokens
    feedback = torch.randn(2, 2, CONTEXT)
    feedback[1] = math.nan
    valid = torch.tensor([True, False])
    query = torch.randn(2, 5, CONTEXT)

    def attended(context: list[torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, context[0], context[0], None if mask is None else mask[:, None])

    for mask in (None, torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])):
        old = attended(*module.context(vl, mask, tokens))
        new = attended(*module.context(vl, mask, tokens, feedback, valid))
        torch.testing.assert_close(new[1], old[1], rtol=0, atol=1e-6)
        assert (new[0] - old[0]).abs().max() > 1e-2


def test_gated_feedback_is_added_to_the_task_tokens_too() -> None:
    plain, gated, vl = make(feedback_scale=2.0), make(feedback_scale=2.0, add_feedback=True), layers(count=1)
    tokens, feedback = plain(*batch()).tokens, torch.randn(2, 2, CONTEXT)
    before, _ = plain.context(vl, None, tokens, feedback)
    after, _ = gated.context(vl, None, tokens, feedback)
    expected = before[0].clone()
    for b in range(2):
        for s in range(2, 5):
            for d in range(CONTEXT):
                expected[b, s, d] += (feedback[b, 0, d] + feedback[b, 1, d]) / 2 * 2.0
    torch.testing.assert_close(after[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_context_keeps_each_layers_dtype(dtype: torch.dtype) -> None:
    module, vl = make(), layers(dtype=dtype)
    context, _ = module.context(vl, None, module(*batch()).tokens, torch.randn(2, 1, CONTEXT))
    assert {layer.dtype for layer in context} == {dtype}
    half = make().bfloat16()
    assert {layer.dtype for layer in half.context(vl, None, half(*batch()).tokens)[0]} == {dtype}


@pytest.mark.parametrize("anchor", [True, False])
def test_a_loss_on_the_context_reaches_every_parameter_and_the_geometry_encoder(anchor: bool) -> None:
    module, feedback = make(anchor=anchor, add_feedback=True), CausalFeedback(DIM, 7, CONTEXT, gate=True)
    geometry = DepthGeometry(GEOMETRY, patch=4, fourier=2)
    intrinsics = torch.tensor([[8.0, 0, 3.5], [0, 8.0, 3.5], [0, 0, 1]]).expand(2, 3, 3)
    seen = geometry([View(depth=torch.rand(2, 8, 8) + 0.5, intrinsics=intrinsics)])
    tokens = module(*batch()[:2], seen.tokens, seen.mask).tokens
    told = feedback(tokens, tokens.flip(0), torch.randn(2, 4, 7), torch.tensor([True, False]))
    context, _ = module.context(layers(), None, tokens, told)
    sum(layer.square().sum() for layer in context).backward()
    everything = {**dict(module.named_parameters()), **dict(feedback.named_parameters())}
    assert [name for name, p in everything.items() if p.grad is None] == []
    assert geometry.linear.weight.grad.abs().max() > 1e-6
    if anchor:
        for reader in (module.anchor.read_text, module.anchor.read_geometry):
            for part in (reader.query, reader.key, reader.value):
                assert part.weight.grad.abs().max() > 1e-6


def test_works_in_inference_mode_and_under_autocast() -> None:
    module, vl = make(), layers()
    expected, _ = module.context(vl, None, module(*batch()).tokens)
    with torch.inference_mode():
        context, _ = module.context(vl, None, module(*batch()).tokens)
        assert torch.equal(context[0], expected[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context, _ = module.context(vl, None, module(*batch()).tokens)
    assert context[0].dtype == torch.float32
    assert (context[0] - expected[0]).abs().max() < 0.1


def test_refuses_what_does_not_fit() -> None:
    module = make()
    tokens = module(*batch()).tokens
    with pytest.raises(ValueError, match=r"vision-language tokens \(4, 4, 12\) do not fit 2 samples"):
        module.context(layers(samples=4), None, tokens)
    with pytest.raises(ValueError, match=r"feedback tokens \(2, 1, 11\).*width of 12"):
        module.context(layers(), None, tokens, torch.zeros(2, 1, 11))
    with pytest.raises(ValueError, match=r"vision-language mask \(2, 5\)"):
        module.context(layers(), torch.ones(2, 5).bool(), tokens)
