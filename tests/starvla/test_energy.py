"""Energies against sums that are written out."""

from __future__ import annotations

import pytest
import torch
from sagr.energy import guidance_energy, residual_energy

RESIDUAL = torch.tensor([[[1.0, 2.0, 3.0], [0.0, -2.0, 1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 6.0]]])


def test_guidance_energy_is_the_mean_square_of_each_sample() -> None:
    expected = torch.full_like(RESIDUAL, 5.0)
    result = guidance_energy(expected, expected + RESIDUAL)
    assert result.tolist() == pytest.approx([(1 + 4 + 9 + 0 + 4 + 1) / 6, 36 / 6])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (None, [19 / 12, 36 / 12]),
        (torch.tensor([1.0, 10.0]), [(14 + 50) / 12, 360 / 12]),
        (torch.tensor([1.0, 0.0, 2.0]), [(1 + 18 + 2) / 12, 72 / 12]),
        (torch.tensor([[2.0], [0.0]]), [28 / 12, 0.0]),
        (torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.5]]), [18.5 / 12, 18 / 12]),
    ],
)
def test_residual_energy_by_hand(weight: torch.Tensor | None, expected: list[float]) -> None:
    assert residual_energy(RESIDUAL, weight).tolist() == pytest.approx(expected)


def test_small_residuals_in_bfloat16_are_not_lost() -> None:
    residual = torch.full((1, 64, 64), 1.0, dtype=torch.bfloat16)
    residual[0, 0, 0] = 16.0
    assert residual_energy(residual).item() == pytest.approx(0.5 * (4095 + 256) / 4096, rel=1e-6)


def test_a_weight_that_fits_two_ways_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match="one a slot or one a dimension"):
        residual_energy(torch.zeros(1, 3, 3), torch.ones(3))
    with pytest.raises(ValueError, match="fits neither"):
        residual_energy(RESIDUAL, torch.ones(5))
    with pytest.raises(ValueError, match="does not broadcast"):
        residual_energy(RESIDUAL, torch.ones(3, 2))
