"""Energies of a residual: what guidance descends, and what L_geo charges."""

from __future__ import annotations

import torch

from .precision import at_least_float32


def guidance_energy(expected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """E = ||reference - expected||^2, as the mean over slots and dims: ``[B,Ns,D]`` twice -> ``[B]``.

    The mean, not the sum, so that eta keeps its meaning when the number of slots or their width changes.
    """
    return (at_least_float32(reference) - at_least_float32(expected)).square().mean(dim=(1, 2))


def residual_energy(residual: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """r' W r / 2 with a diagonal W, as the mean over slots and dims: ``[B,Ns,D]`` -> ``[B]``.

    Args:
        residual: any floating dtype; computed in float32 at least.
        weight: W's diagonal, not negative: ``[Ns]`` one a slot, ``[D]`` one a dimension, or anything of two axes that
            broadcasts over ``[Ns,D]``. None: ones.

    Raises ValueError where the weight fits neither, or both (Ns = D: say ``[Ns,1]`` or ``[1,D]``).
    """
    slots, dim = residual.shape[1:]
    squares = at_least_float32(residual).square()
    if weight is not None:
        if weight.ndim == 1:
            fits_slots, fits_dim = len(weight) == slots, len(weight) == dim
            if fits_slots == fits_dim:
                said = "could be one a slot or one a dimension" if fits_slots else "fits neither"
                raise ValueError(
                    f"residual weight [{len(weight)}] {said}, of residuals [B,{slots},{dim}]; "
                    f"give it as [{slots},1] or [1,{dim}]"
                )
            weight = weight[:, None] if fits_slots else weight[None, :]
        if weight.ndim != 2 or weight.shape[0] not in (1, slots) or weight.shape[1] not in (1, dim):
            raise ValueError(f"residual weight {list(weight.shape)} does not broadcast over [{slots},{dim}]")
        squares = squares * weight.to(squares)
    return 0.5 * squares.mean(dim=(1, 2))
