"""Which samples of a validation set are kept, and which of their tokens: by seed, the same at every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .module_paths import ProbeError
from .routed import tensors_in

NO_LABEL = -100


def choose_samples(samples: int, size: int, seed: int) -> list[int]:
    """``size`` of the numbers below ``samples``, without repetition, in rising order; all where there are fewer."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(samples, generator=generator)[:size].tolist())


def choose_tokens(number: int, size: int, seed: int, sample: int) -> list[int]:
    """``size`` of a sample's ``number`` tokens that are no padding, likewise: they depend on seed and sample alone."""
    generator = torch.Generator().manual_seed(sample_seed(seed, sample))
    return sorted(torch.randperm(number, generator=generator)[:size].tolist())


def sample_seed(seed: int, sample: int) -> int:
    """A seed for what is drawn for one sample."""
    # A generator's first numbers are alike for neighbouring seeds; a large odd factor sets them far apart.
    return (seed * 1_000_003 + sample) * 2_654_435_761 % (1 << 63)


@dataclass(frozen=True)
class BatchFacts:
    """What a probe must know of a batch.

    Attributes:
        size: its number of samples, B.
        labels: ``[B]``, ``[B, T]``, or none.
        mask: ``[B, T]``, nonzero where a token is no padding, or none.
    """

    size: int
    labels: Tensor | None = None
    mask: Tensor | None = None


def read_batch(batch: Any) -> BatchFacts:
    """The facts of a mapping with tensors (``labels`` and ``attention_mask`` by these names), or of (inputs, labels).

    Raises ``ProbeError`` for anything without a tensor.
    """
    first = next((each for each in tensors_in(batch) if each.ndim), None)
    if first is None:
        raise ProbeError(
            f"a {type(batch).__name__} without a tensor is no batch; give read_batch= a function that reads it"
        )
    labels = mask = None
    if isinstance(batch, Mapping):
        labels, mask = batch.get("labels"), batch.get("attention_mask")
    elif isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        labels = batch[1]
    return BatchFacts(
        len(first),
        labels if isinstance(labels, Tensor) and labels.ndim else None,
        mask if isinstance(mask, Tensor) and mask.ndim == 2 else None,
    )
