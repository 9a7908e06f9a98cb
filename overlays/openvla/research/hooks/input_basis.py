"""The directions that fill a layer's inputs on the probe set, in memory that does not grow with it.

Of the inputs X ``[n, D]`` of a layer only the Gram matrix X^T X is kept, a sum over batches: its eigenvectors are the
right singular vectors of X, its eigenvalues their energies (as in incremental PCA without centring). float64, since
squaring halves the digits: a float32 sum could not tell a direction below 1e-7 of the largest energy from rounding.

Bytes: 8 D^2 a layer, 134 MB for 4096 inputs and 969 MB for 11008, which is 66 GB for the layers of openvla-7b together.
So they are taken in groups of at most ``ROOM`` bytes, with one pass over the probe set for each.

How much such directions hold of samples that they were not found in is cross-validated: the rows of a few batches are
kept apart, X^T X without them gives other directions, and these are held against them. What is used is of all batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import unfold

from ..icms.quiet import quiet
from ..icms.replay import forward
from ..icms.tasks import tasks
from ..probe.hidden_and_mask import ProbeBatch

ROOM = 8 * 2**30
"""Bytes of Gram matrices at a time, on the device that the model computes on."""

APART = range(0, 32, 8)
"""Numbers of the batches whose rows are kept for the check: so few that memory does not grow with the probe set."""


@dataclass
class Inputs:
    """What is kept of a layer's inputs x ``[D]``: float64 X^T X ``[D, D]`` of all, and in the model's dtype the rows
    ``[n, D]`` of the batches numbered in ``APART``."""

    gram: torch.Tensor
    apart: list[torch.Tensor] = field(default_factory=list)
    pieces: int = 0

    def add(self, rows: torch.Tensor, number: int) -> None:
        """The rows ``[n, D]`` of batch ``number``."""
        wide = rows.double()
        self.gram.addmm_(wide.T, wide)
        self.pieces += 1
        if number in APART:
            self.apart.append(rows)

    def checked(self, share: float) -> tuple[float, float] | None:
        """How much of the rows apart those directions hold which have ``share`` of the other batches' energy: of the
        sum of ||x||^2, and of each row's own, averaged. None where there are no other batches, or no energy.

        The second is low and the first is not where a few rows are much longer than the others.
        """
        if self.pieces == len(self.apart):
            return None
        rows = torch.cat(self.apart).double()
        basis = basis_of(self.gram - rows.T @ rows, share)
        energy, held = rows.square().sum(1), (rows @ basis).square().sum(1)
        lively = energy > 0
        if not lively.any():
            return None
        return float(held.sum() / energy.sum()), float((held[lively] / energy[lively]).mean())


class Answered:
    """The probe batches, as often as they are gone through, with the model's own greedy answer behind each prompt.

    Args:
        batches: makes the batches anew, the same ones each time.
        actions: tokens of an answer. They are generated once; what is kept of a sample is its tokens and masks.
    """

    def __init__(self, model: nn.Module, batches: Callable[[], Iterable[ProbeBatch]], actions: int) -> None:
        self._model, self._batches, self._actions = model, batches, actions
        self._texts: list[ProbeBatch] = []

    def __iter__(self) -> Iterator[ProbeBatch]:
        if self._texts:
            for text, batch in zip(self._texts, self._batches(), strict=True):
                yield replace(text, pixel_values=batch.pixel_values)
            return
        for task in tasks(self._model, self._batches(), self._actions):
            self._texts.append(replace(task.batch, pixel_values={}))
            yield task.batch


def width_of(layer: nn.Module) -> int:
    """D, the inputs of a layer that LoRA adds to; of a convolution those under its kernel, in all channels."""
    return next(iter(layer.lora_A.values())).weight[0].numel()


def groups_of(layers: Mapping[str, nn.Module], room: int = ROOM) -> Iterator[dict[str, nn.Module]]:
    """``layers`` in their order, in groups whose Gram matrices have ``room`` bytes together; a larger one is alone."""
    group: dict[str, nn.Module] = {}
    used = 0
    for name, layer in layers.items():
        size = 8 * width_of(layer) ** 2
        if group and used + size > room:
            yield group
            group, used = {}, 0
        group[name] = layer
        used += size
    if group:
        yield group


@torch.no_grad()
def inputs_of(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[ProbeBatch], rows: int, seed: int
) -> dict[str, Inputs]:
    """What is kept of the inputs of each of ``layers``, on their device; nothing of a layer that is not run.

    X ``[n, D]``: the layer's inputs in the model's dtype, without padding, at most ``rows`` of a batch. These are drawn
    by ``seed`` with a generator of their own, so that training's random numbers stay what they were.
    """
    found: dict[str, Inputs] = {}
    draw = torch.Generator().manual_seed(seed)

    def taker(name: str, number: int, real: torch.Tensor) -> Any:
        def take(module: nn.Module, args: tuple[Any, ...]) -> None:
            states = _under_the_kernel(module, args[0].detach())
            kept = real.to(states.device)
            # Vision layers have a sequence of their own, without padding.
            flat = states[kept] if states.shape[:2] == kept.shape else states.reshape(-1, states.shape[-1])
            chosen = torch.randperm(len(flat), generator=draw)[:rows]
            if name not in found:
                width = flat.shape[1]
                found[name] = Inputs(torch.zeros(width, width, dtype=torch.float64, device=flat.device))
            found[name].add(flat[chosen.to(flat.device)], number)

        return take

    for number, batch in enumerate(batches):
        patches = batch.instruction_mask.shape[1] - batch.input_ids.shape[1]
        shown = batch.attention_mask.bool()
        real = torch.cat([shown.new_ones(len(shown), patches), shown], dim=1)
        handles = [layer.register_forward_pre_hook(taker(name, number, real)) for name, layer in layers.items()]
        try:
            with quiet(model):
                forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return found


def _under_the_kernel(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """``[B, S, D]`` as it is; pictures ``[B, C, H, W]`` before a convolution as ``[B, places, C * kernel]``."""
    factor = next(iter(layer.lora_A.values()))
    if not isinstance(factor, nn.Conv2d):
        return states
    padding = factor.padding
    if isinstance(padding, str):
        raise ValueError(f"surgery.input_guard cannot hold a convolution with padding {padding!r}; leave it 0")
    return unfold(states, factor.kernel_size, factor.dilation, padding, factor.stride).transpose(1, 2)


def basis_of(gram: torch.Tensor, share: float) -> torch.Tensor:
    """``[D, k]`` orthonormal: the fewest directions with ``share`` (below 1) of the energy sum ||x||^2, largest first.

    ``gram``: X^T X, float64 ``[D, D]``.
    """
    values, directions = torch.linalg.eigh(gram)
    # Where the inputs do not span all of D, rounding leaves energies just below zero.
    energy = values.flip(0).clamp(min=0.0).cumsum(0)
    count = int((energy < share * energy[-1]).sum()) + 1
    return directions[:, -count:].flip(1).contiguous()
