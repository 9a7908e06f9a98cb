"""The semantic anchor against float64 loops; padding, precision, gradients, refusals, and that it learns to look."""

from __future__ import annotations

import math

import pytest
import torch
from sagr.anchor import SemanticAnchor
from torch import nn

TEXT, GEOMETRY, DIM, SLOTS, HEADS = 6, 10, 16, 3, 4


def make(seed: int = 0, **options: object) -> SemanticAnchor:
    torch.manual_seed(seed)
    return SemanticAnchor(TEXT, GEOMETRY, DIM, SLOTS, HEADS, **options)


def batch(seed: int = 1, length: int = 5, tokens: int = 7, samples: int = 2) -> tuple[torch.Tensor, ...]:
    """Text and geometry with masks: in sample 0 all is valid, in the others the last two of each are not."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(samples, length, TEXT, generator=generator)
    geometry = torch.randn(samples, tokens, GEOMETRY, generator=generator)
    text_mask, geometry_mask = torch.ones(samples, length).bool(), torch.ones(samples, tokens).bool()
    text_mask[1:, -2:] = geometry_mask[1:, -2:] = False
    return text, text_mask, geometry, geometry_mask


# The reference: one number at a time.


def norm_loop(x: list[float], norm: nn.LayerNorm) -> list[float]:
    mean = sum(x) / len(x)
    root = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + norm.eps)
    gain = norm.weight.tolist() if norm.elementwise_affine else [1.0] * len(x)
    shift = norm.bias.tolist() if norm.elementwise_affine else [0.0] * len(x)
    return [(v - mean) / root * g + s for v, g, s in zip(x, gain, shift, strict=True)]


def linear_loop(x: list[float], linear: nn.Linear) -> list[float]:
    bias = linear.bias.tolist() if linear.bias is not None else [0.0] * linear.out_features
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(linear.weight.tolist(), bias, strict=True)
    ]


def place_loop(place: int, width: int) -> list[float]:
    half = (width + 1) // 2
    angles = [place * 1e4 ** (-i / half) for i in range(half)]
    return ([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])[:width]


def attend_loop(module: nn.Module, queries: list, context: list, mask: list[bool], ordered: bool) -> tuple[list, list]:
    kept = [i for i, valid in enumerate(mask) if valid]
    normed = {i: norm_loop(context[i], module.context_norm) for i in kept}
    values = {i: linear_loop(normed[i], module.value) for i in kept}
    if ordered:
        normed = {
            i: [a + b for a, b in zip(normed[i], place_loop(place, len(normed[i])), strict=True)]
            for place, i in enumerate(kept)
        }
    keys = {i: linear_loop(normed[i], module.key) for i in kept}
    width = len(next(iter(keys.values()))) // module.heads
    out, maps = [], []
    for query in queries:
        q = linear_loop(norm_loop(query, module.norm), module.query)
        read, mean_map = [], [0.0] * len(context)
        for h in range(module.heads):
            part = slice(h * width, (h + 1) * width)
            scores = {
                i: sum(a * b for a, b in zip(q[part], keys[i][part], strict=True)) / math.sqrt(width) for i in kept
            }
            total = sum(math.exp(s) for s in scores.values())
            weights = {i: math.exp(s) / total for i, s in scores.items()}
            read += [sum(weights[i] * values[i][part][d] for i in kept) for d in range(width)]
            for i in kept:
                mean_map[i] += weights[i] / module.heads
        out.append(linear_loop(read, module.project))
        maps.append(mean_map)
    return out, maps


def anchor_loop(anchor: SemanticAnchor, text: list, text_mask: list, geometry: list, geometry_mask: list) -> tuple:
    slots = anchor.slots.tolist()
    asked, _ = attend_loop(anchor.read_text, slots, text, text_mask, True)
    question = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(slots, asked, strict=True)]
    found, maps = attend_loop(anchor.read_geometry, question, geometry, geometry_mask, False)
    tokens = []
    for q, f in zip(question, found, strict=True):
        x = [a + b for a, b in zip(q, f, strict=True)]
        hidden = linear_loop(norm_loop(x, anchor.mlp[0]), anchor.mlp[1])
        hidden = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in hidden]
        tokens.append(
            norm_loop([a + b for a, b in zip(x, linear_loop(hidden, anchor.mlp[3]), strict=True)], anchor.out)
        )
    return tokens, maps


def test_matches_float64_loops() -> None:
    anchor = make().double()
    with torch.no_grad():  # norms that are not the identity, or their places could be swapped unseen
        for p in anchor.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    inputs = [x.double() if x.is_floating_point() else x for x in batch()]
    tokens, attention = anchor(*inputs, return_attention=True)
    for b in range(2):
        expected, maps = anchor_loop(anchor, *(x[b].tolist() for x in inputs))
        torch.testing.assert_close(tokens[b], torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)
        # The attention is float32 in any case.
        torch.testing.assert_close(attention[b].double(), torch.tensor(maps, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_attention_is_a_distribution_over_valid_tokens_and_only_on_demand() -> None:
    inputs = batch()
    tokens, attention = make()(*inputs, return_attention=True)
    assert tokens.shape == (2, SLOTS, DIM)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, SLOTS))
    assert (attention[1, :, -2:] == 0).all()
    assert (attention[1, :, :-2] > 0).all()
    assert make()(*inputs).attention is None


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("garbage", [0.0, 1e4, math.nan, math.inf])
def test_neither_amount_nor_place_nor_content_of_padding_matters(left: bool, garbage: float) -> None:
    anchor = make()
    text, text_mask, geometry, geometry_mask = batch()

    def pad(x: torch.Tensor, n: int) -> torch.Tensor:
        fill = torch.full((x.shape[0], n, *x.shape[2:]), False if x.dtype == torch.bool else garbage, dtype=x.dtype)
        return torch.cat([fill, x] if left else [x, fill], 1)

    plain = anchor(text, text_mask, geometry, geometry_mask).tokens
    padded = anchor(pad(text, 37), pad(text_mask, 37), pad(geometry, 90), pad(geometry_mask, 90)).tokens
    torch.testing.assert_close(padded, plain, rtol=0, atol=1e-6)
    grads = []
    for tokens in (plain, padded):
        anchor.zero_grad()
        tokens[..., :3].square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in anchor.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(grads[1][name], grads[0][name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_sample_does_not_see_its_neighbours_in_the_batch() -> None:
    anchor, inputs = make(), batch()
    alone = anchor(*(x[1:] for x in inputs)).tokens
    torch.testing.assert_close(anchor(*inputs).tokens[1:], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 77, 1000])
def test_any_instruction_length(length: int) -> None:
    text, _, geometry, _ = batch(length=length, tokens=1 + length % 5)
    tokens = make()(text, torch.ones(text.shape[:2]).long(), geometry, None).tokens
    assert tokens.shape == (2, SLOTS, DIM)
    assert tokens.isfinite().all()


def test_the_instruction_decides_what_is_looked_at() -> None:
    anchor, (text, text_mask, geometry, geometry_mask) = make(), batch()
    one = anchor(text, text_mask, geometry, geometry_mask, True).attention
    other = anchor(text.flip(2), text_mask, geometry, geometry_mask, True).attention
    assert (one - other).abs().max() > 1e-3


def test_the_order_of_the_words_matters_and_that_of_the_geometry_does_not() -> None:
    anchor, (text, text_mask, geometry, geometry_mask) = make(), batch()
    swapped = text.clone()
    swapped[:, [0, 2]] = text[:, [2, 0]]
    plain, other = (anchor(words, text_mask, geometry, geometry_mask).tokens for words in (text, swapped))
    assert (plain - other).abs().amax(dim=(1, 2)).min() > 1e-2
    turned = anchor(text, text_mask, geometry.flip(1), geometry_mask.flip(1)).tokens
    torch.testing.assert_close(turned, plain, rtol=0, atol=1e-6)


def test_softmax_stays_float32_in_bfloat16_and_under_autocast() -> None:
    inputs = batch(tokens=400)
    expected = make()(*inputs, return_attention=True)
    half = make().bfloat16()(*inputs, return_attention=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = make()(*inputs, return_attention=True)
    for got in (half, auto):
        assert got.tokens.dtype == got.attention.dtype == torch.float32
        # 400 weights rounded to bfloat16 would miss one by up to 4e-3
        torch.testing.assert_close(got.attention.sum(-1), torch.ones(2, SLOTS), rtol=0, atol=1e-5)
        assert (got.tokens.float() - expected.tokens).abs().max() < 0.1


def test_large_logits_do_not_overflow() -> None:
    anchor = make().bfloat16()
    with torch.no_grad():
        anchor.read_geometry.query.weight.mul_(1e4)
    tokens, attention = anchor(*batch(), return_attention=True)
    assert tokens.isfinite().all()
    assert attention.isfinite().all()


def test_works_in_inference_mode() -> None:
    expected = make()(*batch()).tokens
    with torch.inference_mode():
        assert torch.equal(make()(*batch()).tokens, expected)


def test_every_parameter_gets_a_gradient_and_attention_a_real_one() -> None:
    anchor = make()
    anchor(*batch()).tokens[..., :5].square().sum().backward()
    assert [name for name, p in anchor.named_parameters() if p.grad is None] == []
    for module in (anchor.read_text, anchor.read_geometry):
        for part in (module.query, module.key, module.value, module.project):
            assert part.weight.grad.abs().max() > 1e-6
    assert anchor.slots.grad.abs().max() > 1e-6


def test_gradients_match_finite_differences() -> None:
    anchor = make().double()
    inputs = [x.double() if x.is_floating_point() else x for x in batch()]
    geometry = inputs[2].requires_grad_()
    weight = torch.randn(2, SLOTS, DIM, dtype=torch.float64)

    def value(g: torch.Tensor) -> torch.Tensor:
        return (anchor(inputs[0], inputs[1], g, inputs[3]).tokens * weight).sum()

    (grad,) = torch.autograd.grad(value(geometry), geometry)
    assert (grad[1, -2:] == 0).all()
    for place in ((0, 0, 0), (0, 6, 9), (1, 3, 4), (1, 4, 2)):
        step = torch.zeros_like(geometry)
        step[place] = 1e-2
        with torch.no_grad():
            f = {n: value(geometry + n * step) for n in (-2, -1, 1, 2)}
        slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * 1e-2)
        torch.testing.assert_close(grad[place], slope, rtol=1e-3, atol=1e-4)


def test_dropout_acts_in_training_only_and_not_on_the_returned_map() -> None:
    anchor = make(dropout=0.5)
    first, second = anchor(*batch(), return_attention=True), anchor(*batch(), return_attention=True)
    assert not torch.equal(first.tokens, second.tokens)
    torch.testing.assert_close(first.attention.sum(-1), torch.ones(2, SLOTS))
    anchor.eval()
    assert torch.equal(anchor(*batch()).tokens, make()(*batch()).tokens)


def test_refuses_what_it_cannot_read() -> None:
    anchor, (text, text_mask, geometry, geometry_mask) = make(), batch(samples=3)
    empty = text_mask.clone()
    empty[[0, 2]] = False
    with pytest.raises(ValueError, match=r"no valid instruction token in sample\(s\) \[0, 2\].*'lang'"):
        anchor(text, empty, geometry, geometry_mask)
    blind = geometry_mask.clone()
    blind[1] = False
    with pytest.raises(ValueError, match=r"no valid geometry token in sample\(s\) \[1\]"):
        anchor(text, text_mask, geometry, blind)
    with pytest.raises(ValueError, match=r"no valid geometry token in sample\(s\) \[0, 1, 2\]"):
        anchor(text, text_mask, geometry[:, :0], None)
    with pytest.raises(ValueError, match=r"text mask is torch.float32: give bool"):
        anchor(text, torch.zeros(text.shape[:2]), geometry)
    with pytest.raises(ValueError, match=r"geometry mask \(3, 5\) does not fit"):
        anchor(text, text_mask, geometry, text_mask)
    with pytest.raises(ValueError, match="3 samples of text and 2 of geometry"):
        anchor(text, text_mask, geometry[:2])
    with pytest.raises(ValueError, match=r"heads = 5 does not divide the token width 16"):
        SemanticAnchor(TEXT, GEOMETRY, DIM, SLOTS, 5)
    with pytest.raises(ValueError, match=r"slots = 0"):
        SemanticAnchor(TEXT, GEOMETRY, DIM, 0, 4)


def test_learns_to_look_at_what_is_named() -> None:
    """Tokens are colours at places, the text names a colour among filler words, the loss asks for the place."""
    torch.manual_seed(0)
    words, anchor, place = nn.Embedding(8, TEXT), SemanticAnchor(TEXT, 6, 32, 2, 4), nn.Linear(32, 2)
    parameters = [*words.parameters(), *anchor.parameters(), *place.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)

    def scenes(count: int) -> tuple[torch.Tensor, ...]:
        named = torch.randint(4, (count,))
        text = torch.cat([named[:, None], torch.randint(4, 8, (count, 4))], 1)
        order, where = torch.rand(count, 4).argsort(1), torch.rand(count, 4, 2) * 2 - 1
        tokens = torch.cat([nn.functional.one_hot(order, 4).float(), where], -1)
        return text, torch.rand(count, 5).argsort(1) < 3, tokens, order == named[:, None]

    def look(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        text, mask, tokens, named = scenes(count)
        mask[:, 0] = True
        found, attention = anchor(words(text), mask, tokens, None, True)
        error = place(found.mean(1)) - tokens[named][:, 4:]
        return error.square().mean(), attention.transpose(1, 2)[named].mean()

    with torch.no_grad():
        before, _ = look(512)
    for _ in range(300):
        optimizer.zero_grad()
        look(64)[0].backward()
        optimizer.step()
    with torch.no_grad():
        after, share = look(512)
    assert after < before / 20
    assert share > 0.7  # a quarter is chance
