"""One pair about one target: atoms with what shuffled targets give subtracted, z-scores and 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from runners.intervals import t_quantile
from runners.oid.common_rows import MIN_SEQUENCES
from runners.oid.decomposition import NAMES, local_atoms
from runners.oid.probe_files import Array
from runners.oid.reduction import halves, reduce, smallest_eigenvalue

SINGULAR = 1e-6
"""Smallest eigenvalue of the correlation matrix below which omegaid's regularisation (1e-6) and rounding take part."""


@dataclass(frozen=True)
class Settings:
    """How pairs are analysed: `rank` components for each expert and for each half of the target; `surrogates` shuffles,
    and as many halves.
    """

    rank: int
    redundancy: str = "MMI"
    kind: str = "gaussian"
    surrogates: int = 50
    min_samples: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One pair, one target, one epoch: `first`, `second`, `target` are `[n, features]`, `samples [n]`."""

    epoch: int
    names: tuple[str, str, str]
    first: Array
    second: Array
    target: Array
    samples: Array
    basis: str
    found: int
    order: int
    """Its place among all tasks: the random numbers depend on it, and not on who computes it when."""


@dataclass(frozen=True)
class Value:
    """Of one atom: as omegaid gives it, mean and standard deviation over surrogates, and what is left.

    `value` = `raw` - `null_mean`; `z` = `value` / `null_sd`, None where surrogates do not vary; [`low`, `high`] is the
    95 % interval of `value`.
    """

    raw: float
    null_mean: float
    null_sd: float
    value: float
    z: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What is known of a pair; `values` is empty where `problem` says why it was not computed."""

    epoch: int
    first: str
    second: str
    target: str
    basis: str = ""
    found: int = 0
    rows: int = 0
    sequences: int = 0
    rank: int = 0
    explained: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    eigenvalue: float = math.nan
    singular: bool = False
    values: dict[str, Value] = field(default_factory=dict)
    problem: str = ""


def estimate(task: Task, settings: Settings) -> Result:
    """The atoms of `task`, or why there are none."""
    rows, sequences = len(task.samples), len(np.unique(task.samples))
    about = Result(task.epoch, *task.names, basis=task.basis, found=task.found, rows=rows, sequences=sequences)
    least = max(settings.min_samples, 8 * settings.rank)
    if rows < least:
        return replace(about, problem=f"too few common samples: {rows} ({task.basis}), {least} are asked for")
    if sequences < MIN_SEQUENCES:
        return replace(
            about, problem=f"too few samples: the {rows} rows are of {sequences}, {MIN_SEQUENCES} are needed"
        )
    first, second = (reduce(values, settings.rank, settings.kind) for values in (task.first, task.second))
    target = reduce(task.target, 2 * settings.rank, settings.kind)
    ranks = (first.rank, second.rank, target.rank // 2)
    rank = min(ranks)
    if not rank:
        empty = task.names[ranks.index(0)]
        return replace(about, problem=f"{empty} is constant" if ranks[2] else f"{empty} has fewer than two components")
    parts = (first.components[:, :rank], second.components[:, :rank], *halves(target.components, rank))
    rng = np.random.default_rng([settings.seed, task.order])

    def atoms(sources: Array, targets: Array) -> Array:
        """Of the rows `sources` with the targets of the rows `targets`: `[len(NAMES)]`."""
        x, y, a, b = parts[0][sources], parts[1][sources], parts[2][targets], parts[3][targets]
        return local_atoms(x, y, (a, b), settings.kind, settings.redundancy).mean(axis=1)

    every = np.arange(rows)
    null = np.stack([atoms(every, shuffled(task.samples, rng)) for _ in range(settings.surrogates)])
    parted = np.stack([atoms(half, half) for half in (half_of(task.samples, rng) for _ in range(settings.surrogates))])
    raw = atoms(every, every)
    if not all(np.isfinite(values).all() for values in (raw, null, parted)):
        return replace(about, problem="omegaid gave values that are not finite: a component varies on too few rows")
    eigenvalue = math.nan
    if settings.kind == "gaussian":
        eigenvalue = smallest_eigenvalue(np.concatenate(parts, axis=1))
    return replace(
        about,
        rank=rank,
        explained=(first.explained(rank), second.explained(rank), target.explained(2 * rank)),
        eigenvalue=eigenvalue,
        singular=eigenvalue < SINGULAR,
        values=_values(raw, null, parted),
    )


def shuffled(samples: Array, rng: np.random.Generator) -> Array:
    """An order of rows that parts sources from targets: whole samples in random order, the whole turned at random.

    Rows of one sample resemble each other; an order that mixed them would make surrogates of too little variance.
    `samples [n]`: the sample of each row, rising. Where each row is a sample of its own this is any permutation.
    """
    blocks = np.split(np.arange(len(samples)), np.flatnonzero(np.diff(samples)) + 1)
    order = np.concatenate([blocks[place] for place in rng.permutation(len(blocks))])
    return np.roll(order, rng.integers(len(order)))


def half_of(samples: Array, rng: np.random.Generator) -> Array:
    """Rows (rising) of a random half of the samples."""
    names, place = np.unique(samples, return_inverse=True)
    chosen = np.zeros(len(names), bool)
    chosen[rng.permutation(len(names))[: len(names) // 2]] = True
    return np.flatnonzero(chosen[place])


def _values(raw: Array, null: Array, parted: Array) -> dict[str, Value]:
    """The values by name, of `raw [names]`, `null` and `parted [surrogates, names]`.

    An estimate on a random half deviates from that on the whole by the standard error of the whole (half-sampling;
    McCarthy 1969). Other than the deviation of local values it knows that redundancy is a minimum, which another sample
    may find at the other source. Where a relation is exact halves do not vary, and the surrogates' deviation is what is
    left. To either comes the error of the surrogates' mean.
    """
    middle, spread = null.mean(axis=0), null.std(axis=0, ddof=1)
    errors = np.sqrt(np.maximum(parted.std(axis=0, ddof=1), spread) ** 2 + spread**2 / len(null))
    half = t_quantile(0.975, len(null) - 1) * errors
    value = raw - middle
    return {
        name: Value(
            raw=float(raw[i]),
            null_mean=float(middle[i]),
            null_sd=float(spread[i]),
            value=float(value[i]),
            z=float(value[i] / spread[i]) if spread[i] > 0 else None,
            low=float(value[i] - half[i]),
            high=float(value[i] + half[i]),
        )
        for i, name in enumerate(NAMES)
    }
