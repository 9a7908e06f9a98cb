"""The grounding loss against loops in float64, and masks on their way to the tokens."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sagr.data import columns
from sagr.geometry.base import View
from sagr.geometry.depth import DepthGeometry
from sagr.geometry.inputs import collect
from sagr.grounding import grounding_loss, named_share

H, W = 10, 13


def masks(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((2, H, W)) < 0.3


def test_shares_are_those_of_the_encoders_own_tokens() -> None:
    named = masks()
    view = View(depth=torch.ones(2, H, W), intrinsics=torch.eye(3).expand(2, 3, 3), named=torch.from_numpy(named))
    encoder = DepthGeometry(8, patch=4, fourier=0)
    grid = encoder([view]).grid
    assert grid == ((3, 4),)
    expected = np.zeros((2, 3, 4))
    for sample, row, column in np.ndindex(2, 3, 4):
        cell = named[sample, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected[sample, row, column] = cell.sum() / 16  # what sticks out of the view shows nothing
    got = named_share([view, view], grid * 2, encoder.patch)
    assert got.shape == (2, 24)
    np.testing.assert_allclose(got.numpy(), np.concatenate([expected.reshape(2, -1)] * 2, 1), rtol=1e-6)


def test_tokens_that_no_attention_reaches_show_nothing() -> None:
    """A thing that is seen only where depth is invalid is left out, instead of charged for ever."""
    named = torch.zeros(2, 4, 8, dtype=torch.bool)
    named[:, :, :4] = True
    valid = torch.tensor([[False, True], [True, True]])
    share = named_share([View(named=named)], [(1, 2)], 4, valid)
    assert share.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    attention = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]])
    assert grounding_loss(attention, share).item() == pytest.approx(math.log(2), abs=1e-5)


def test_a_grid_that_fills_the_view_is_pooled() -> None:
    named = torch.zeros(1, 8, 6, dtype=torch.bool)
    named[0, 4:, :3] = True
    assert named_share([View(named=named)], [(2, 2)]).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_the_loss_by_hand() -> None:
    draw = np.random.default_rng(1)
    attention = draw.random((3, 2, 5))
    attention /= attention.sum(-1, keepdims=True)
    share = draw.random((3, 5)) * 0.6
    share[1] = 0.0
    terms = [
        -math.log(sum(attention[b, s, i] * share[b, i] for i in range(5)) / share[b].max() + 1e-6)
        for b in (0, 2)
        for s in range(2)
    ]
    got = grounding_loss(torch.from_numpy(attention), torch.from_numpy(share))
    assert got.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_it_is_least_where_all_attention_lies_on_the_thing() -> None:
    share = torch.tensor([[0.0, 0.5, 0.25]])
    at = torch.eye(3)[:, None, None].unbind(0)
    losses = [grounding_loss(one, share).item() for one in at]
    assert losses[1] == pytest.approx(0.0, abs=2e-6)
    assert losses[2] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[0] == pytest.approx(-math.log(1e-6), rel=1e-5)


def test_where_the_thing_is_nowhere_seen_the_loss_is_0_with_a_graph() -> None:
    attention = torch.full((2, 1, 3), 1 / 3, requires_grad=True)
    loss = grounding_loss(attention, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(attention.grad, torch.zeros_like(attention))


def test_masks_come_from_examples_and_fit_the_depth_map() -> None:
    example = {
        "depth": np.ones((4, 6), np.float32),
        "intrinsics": np.eye(3),
        "named_mask": np.eye(2, 3, dtype=np.uint8),
    }
    (view,) = collect([example])
    assert view.named.dtype == torch.bool
    assert torch.equal(view.named[0], torch.eye(2, 3).bool().repeat_interleave(2, 0).repeat_interleave(2, 1))
    (without,) = collect([{key: value for key, value in example.items() if key != "named_mask"}])
    assert without.named is None


def test_masks_come_from_a_column_as_png_or_numbers() -> None:
    picture = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [1, 0]], np.uint8)).save(picture, "PNG")
    for cell in ({"bytes": picture.getvalue()}, [[0, 1], [1, 0]]):
        found = columns.mask(cell)
        assert found.dtype == bool
        assert found.tolist() == [[False, True], [True, False]]
    with pytest.raises(ValueError, match="it has no 'bytes': a mask has to lie in the parquet file as a PNG"):
        columns.mask({"path": "mask.png"})
    with pytest.raises(ValueError, match=r"it has the shape \[2\]: a mask is \[h, w\]"):
        columns.mask([0, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"view\(s\) \[1\] have no 'named_mask': sagr.losses.w_ground needs one"):
        named_share([View(named=torch.ones(1, 4, 4).bool()), View()], [(1, 1), (1, 1)], 4)
    with pytest.raises(ValueError, match=r"attention \[1, 2, 3\] must be \[B,Ns,Ng\] for shares \[1, 4\]"):
        grounding_loss(torch.ones(1, 2, 3) / 3, torch.ones(1, 4))
    example = {"depth": np.ones((4, 6), np.float32), "intrinsics": np.eye(3), "named_mask": np.ones((4, 6))}
    with pytest.raises(ValueError, match=r"example 0, key 'named_mask': it is float64 \[4, 6\]: give bool or integers"):
        collect([example])
