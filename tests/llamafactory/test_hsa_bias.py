"""The bias against a plain float64 double loop that knows nothing of the code under test."""

import math

import pytest
import tiny

tiny.require()

import torch  # noqa: E402
from llamafactory.hsa.bias import HSARule, additive_mask  # noqa: E402

MASKED = None


def expected(allowed, types, query_types, policy, landmark, noise, window, start):
    """Entry by entry: the bias, or None where the key is masked."""
    rows = []
    for i in range(len(allowed)):
        row = []
        for j in range(len(allowed[0])):
            distance = abs(start + i - j)
            if not allowed[i][j]:
                row.append(MASKED)
            elif types[j] == 0:
                row.append(0.0)
            elif types[j] == 1:
                row.append(-landmark * distance)
            elif distance > window or (policy == "hierarchical" and query_types[i] != 2):
                row.append(MASKED)
            else:
                row.append(-noise * distance)
        if all(entry is MASKED for entry in row):
            row[start + i] = 0.0
        rows.append(row)
    return rows


def check(mask, wanted, dtype):
    lowest = torch.finfo(dtype).min
    relative = torch.finfo(dtype).eps
    for got_row, wanted_row in zip(mask.tolist(), wanted, strict=True):
        for got, want in zip(got_row, wanted_row, strict=True):
            if want is MASKED:
                assert got == lowest
            else:
                assert math.isclose(got, want, rel_tol=relative, abs_tol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("policy", ["distance", "hierarchical"])
@pytest.mark.parametrize("start", [0, 4])
def test_bias_is_the_formula(dtype, policy, start):
    generator = torch.Generator().manual_seed(3)
    queries, keys = 9, 9 + start
    types = torch.randint(0, 3, (2, keys), generator=generator)
    allowed = torch.ones(queries, keys).tril(start).bool().expand(2, 1, -1, -1).clone()
    allowed[1, 0, :, :2] = False  # left padding; with start 0 two rows see nothing
    rule = HSARule(policy, 0.013, 0.7, 4)
    mask = additive_mask(allowed, types, types[:, start:], rule, start, dtype)
    assert mask.shape == (2, 1, queries, keys)
    assert mask.dtype == dtype
    for b in range(2):
        row = types[b].tolist()
        wanted = expected(allowed[b, 0].tolist(), row, row[start:], policy, 0.013, 0.7, 4, start)
        check(mask[b, 0], wanted, dtype)


def test_the_window_is_inclusive():
    types = torch.tensor([[2, 0, 0, 0, 0]])
    causal = torch.ones(5, 5).tril().bool()[None, None]
    column = additive_mask(causal, types, types, HSARule(window=3), 0, torch.float64)[0, 0, :, 0]
    assert column.tolist() == [0.0, -0.5, -1.0, -1.5, torch.finfo(torch.float64).min]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_far_landmarks_stay_above_the_mask_and_below_nothing(dtype):
    """At 5,000 tokens a landmark has lost 5 points, whatever the dtype; no entry is infinite, no row is all masked."""
    types = torch.ones(1, 5000, dtype=torch.long)
    causal = torch.ones(5000, 5000, dtype=torch.bool).tril()[None, None]
    mask = additive_mask(causal, types, types, HSARule(), 0, dtype)
    assert torch.isfinite(mask).all()
    assert mask[0, 0, 4999, 0].item() == pytest.approx(-4.999, rel=torch.finfo(dtype).eps)
    assert (mask[0, 0, 0, 1:] == torch.finfo(dtype).min).all()
    steep = additive_mask(causal[..., :64, :64], types[:, :64], types[:, :64], HSARule(lambda_landmark=1e38), 0, dtype)
    assert torch.isfinite(steep).all()


def test_padding_rows_see_themselves_and_give_no_nan():
    types = torch.tensor([[2, 2, 0, 1]])
    allowed = torch.ones(4, 4).tril().bool()[None, None].clone()
    allowed[..., :2] = False
    mask = additive_mask(allowed, types, types, HSARule("hierarchical"), 0, torch.float32)
    assert mask[0, 0, 0].tolist() == [0.0] + [torch.finfo(torch.float32).min] * 3
    assert mask[0, 0, 1, 1] == 0.0
    q = torch.randn(1, 2, 4, 8, requires_grad=True)
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(q.grad).all()


def test_all_global_is_the_plain_mask():
    types = torch.zeros(2, 6, dtype=torch.long)
    causal = torch.ones(6, 6).tril().bool().expand(2, 1, -1, -1)
    for policy in ("distance", "hierarchical"):
        mask = additive_mask(causal, types, types, HSARule(policy), 0, torch.float32)
        assert torch.equal(mask == 0, causal)
