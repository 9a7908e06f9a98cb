"""The picture of an attention: what is bright, what stays as it was, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sagr.anchor_map import draw, per_view

GREY = Image.new("RGB", (96, 64), (128, 128, 128))


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float).sum(-1)


def test_the_peak_is_where_the_attention_is() -> None:
    attention = torch.zeros(4, 6)
    attention[1, 4] = 0.5
    drawn = draw(attention.flatten(), GREY, (4, 6))
    assert drawn.size == GREY.size
    assert drawn.mode == "RGB"
    v, u = np.unravel_index(brightness(drawn).argmax(), (64, 96))
    assert 16 <= v < 32
    assert 64 <= u < 80
    far = np.asarray(drawn)[48:, :32]
    assert (far == 128).all()


def test_slots_are_averaged_and_the_image_shows_through() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    attention = torch.rand(3, 24, generator=torch.Generator().manual_seed(0))
    many, one = draw(attention, image, (4, 6)), draw(attention.mean(0), image, (4, 6))
    assert np.abs(np.asarray(many, int) - np.asarray(one, int)).max() <= 1
    invisible = np.asarray(draw(attention, image, (4, 6), opacity=0.0))
    assert np.abs(invisible[..., 0].astype(int) - np.asarray(image.convert("L"), int)).max() == 0


def test_cells_that_stick_out_are_cut_off() -> None:
    """10 pixels in cells of 4: the third column is half outside, and a peak there is at the image's edge."""
    attention = torch.zeros(2, 3)
    attention[0, 2] = 1
    image = Image.new("RGB", (100, 80))
    cut = draw(attention.flatten(), image, (2, 3), cell=(40.0, 40.0))
    v, u = np.unravel_index(brightness(cut).argmax(), (80, 100))
    assert u >= 90
    assert v < 40
    whole = draw(attention.flatten(), image, (2, 3))
    assert brightness(whole)[20, 67:].mean() > brightness(whole)[20, :67].mean()
    assert not np.array_equal(np.asarray(cut), np.asarray(whole))


def test_views_are_cut_apart() -> None:
    attention = torch.arange(20.0).repeat(2, 3, 1)
    first, second = per_view(attention, ((2, 4), (3, 4)))
    assert first.shape == (2, 3, 8)
    assert second[0, 0].tolist() == list(range(8, 20))
    with pytest.raises(ValueError, match="20 tokens does not fit"):
        per_view(attention, ((2, 4),))


def test_refuses() -> None:
    with pytest.raises(ValueError, match="grid of 2 x 3"):
        draw(torch.rand(5), GREY, (2, 3))
    with pytest.raises(ValueError, match="NaN"):
        draw(torch.full((6,), float("nan")), GREY, (2, 3))
    with pytest.raises(ValueError, match="do not cover"):
        draw(torch.rand(6), GREY, (2, 3), cell=(8, 8))
