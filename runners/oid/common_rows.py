"""The rows on which two experts and a target meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runners.oid.probe_files import Array, Epoch

DENSE, ROUTED = "dense", "routed"


@dataclass(frozen=True)
class CommonRows:
    """Indices of rows (rising), the sample of each, what was asked of them in words, and how many there were."""

    index: Array
    samples: Array
    basis: str
    found: int


def common_rows(
    epoch: Epoch, first: str, second: str, target: str, *, basis: str, limit: int, rng: np.random.Generator
) -> CommonRows:
    """Rows that hold finite activations of all three; with `basis` `routed`, only those routed to both experts.

    Of more than `limit` rows a random part of that size is taken.

    Raises ValueError where the file lacks one of the three, or does not say what was routed where `routed` is asked.
    """
    for side, name in ((epoch.sources, first), (epoch.sources, second), (epoch.targets, target)):
        if name not in side:
            raise ValueError(f"epoch {epoch.number} holds no activations of {name}")
    kept = _finite(epoch.sources[first]) & _finite(epoch.sources[second]) & _finite(epoch.targets[target])
    words = "dense evaluation" if epoch.dense else "recorded for both"
    if basis == ROUTED:
        for name in (first, second):
            if name not in epoch.routed:
                raise ValueError(f"epoch {epoch.number} does not say which rows were routed to {name}")
            kept &= epoch.routed[name]
        words = "routed to both"
    index = np.flatnonzero(kept)
    found = len(index)
    if found > limit:
        index = np.sort(rng.choice(index, limit, replace=False))
    return CommonRows(index, epoch.samples[index], words, found)


def _finite(values: Array) -> Array:
    mask: Array = np.isfinite(values).all(axis=1)
    return mask
