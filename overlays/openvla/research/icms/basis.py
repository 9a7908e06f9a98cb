"""The directions that a layer's instruction states vary along, and bases to compare them with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..probe.hidden_and_mask import ProbeBatch, pooled_states, run_to


@dataclass(frozen=True)
class Pooled:
    """A layer's instruction states over the probe set: ``states`` ``[N, D]`` float32, each the mean over the
    instruction's tokens, and ``rms``, the root mean square over all tokens and components."""

    states: torch.Tensor
    rms: float


@dataclass(frozen=True)
class Principal:
    """Right singular vectors of the centred pooled states: ``mean`` ``[D]``, ``singular_values`` ``[k]`` descending,
    in units of the hidden state, ``basis`` ``[D, k]``; float64."""

    mean: torch.Tensor
    singular_values: torch.Tensor
    basis: torch.Tensor


def pooled(
    model: nn.Module, batches: Iterable[ProbeBatch], layers: list[int]
) -> tuple[tuple[str, ...], dict[int, Pooled]]:
    """The samples' names, and each layer's states, pooled as the thermostat will pool the student's; on the CPU."""
    states: dict[int, list[torch.Tensor]] = {n: [] for n in layers}
    squares = dict.fromkeys(layers, 0.0)
    ids: list[str] = []
    tokens = 0
    for batch in batches:
        for n, means in pooled_states(model, batch, layers).items():
            states[n].append(means.cpu())
        ids += batch.ids
        tokens += int(batch.instruction_mask.sum())
        for n, hidden in run_to(model, batch, layers).items():
            squares[n] += float(hidden[batch.instruction_mask.to(hidden.device)].double().square().sum())
    wide = {n: torch.cat(states[n]) for n in layers}
    return tuple(ids), {n: Pooled(wide[n], math.sqrt(squares[n] / (tokens * wide[n].shape[1]))) for n in layers}


def principal(states: torch.Tensor, r: int) -> Principal:
    """The first ``r`` principal directions of pooled states ``[N, D]``; fewer if the states do not span as many.

    N centred states span at most N - 1 directions. A singular value below what float32 states can resolve belongs to an
    arbitrary vector, and is dropped. Raises ``ValueError`` if fewer than two directions are left.
    """
    wide = states.double()
    mean = wide.mean(0)
    _, values, rows = torch.linalg.svd(wide - mean, full_matrices=False)
    floor = max(states.shape) * torch.finfo(torch.float32).eps * wide.square().sum(1).max().sqrt()
    k = min(r, len(states) - 1, int((values > floor).sum()))
    if k < 2:
        raise ValueError(
            f"the pooled states of {len(states)} probe samples span {max(k, 0)} directions; "
            "a subspace needs at least 2: take a probe set with more different instructions"
        )
    return Principal(mean, values[:k], rows[:k].T.contiguous())


def random_basis(hidden_size: int, k: int, seed: int, layer: int) -> torch.Tensor:
    """An orthonormal basis ``[hidden_size, k]`` float64 of a uniformly random subspace, fixed by seed and layer."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + layer) % 2**32)
    wide = torch.randn(hidden_size, k, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(wide).Q
