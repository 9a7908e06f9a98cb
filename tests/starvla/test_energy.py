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


def test_residual_energy_by_hand() -> None:
    assert residual_energy(RESIDUAL).tolist() == pytest.approx([19 / 12, 36 / 12])


def test_small_residuals_in_bfloat16_are_not_lost() -> None:
    residual = torch.full((1, 64, 64), 1.0, dtype=torch.bfloat16)
    residual[0, 0, 0] = 16.0
    assert residual_energy(residual).item() == pytest.approx(0.5 * (4095 + 256) / 4096, rel=1e-6)
