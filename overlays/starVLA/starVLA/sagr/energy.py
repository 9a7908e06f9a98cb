"""Energies of a residual: what guidance descends, and what L_geo charges."""

from __future__ import annotations

import torch

from .precision import at_least_float32


def guidance_energy(expected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """E = ||reference - expected||^2, as the mean over slots and dims: ``[B,Ns,D]`` twice -> ``[B]``.

    The mean, not the sum, so that eta keeps its meaning when the number of slots or their width changes.
    """
    return (at_least_float32(reference) - at_least_float32(expected)).square().mean(dim=(1, 2))


def residual_energy(residual: torch.Tensor) -> torch.Tensor:
    """r' W r / 2, as the mean over slots and dims: ``[B,Ns,D]``, any floating dtype, -> ``[B]``, float32 at least.

    W is the identity: slots are learned and have no names by which to weigh them.
    """
    return 0.5 * at_least_float32(residual).square().mean(dim=(1, 2))
