"""One pair about one target: atoms with what shuffled targets give subtracted, z-scores and 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from runners.intervals import t_quantile
from runners.oid.decomposition import NAMES, local_atoms
from runners.oid.probe_files import Array
from runners.oid.reduction import AXES, halves, reduce, reduced_to, smallest_eigenvalue

Parts = tuple[Array, Array, Array, Array]
"""Both sources and both halves of the target, `[n, rank]` each."""
SINGULAR = 1e-6
"""Smallest eigenvalue of the correlation matrix below which omegaid's regularisation (1e-6) and rounding take part."""
SAMPLES = 16
"""Distinct validation samples a component, below which noise comes out as information."""


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
    if rows < settings.min_samples:
        asked = settings.min_samples
        return replace(about, problem=f"too few common samples: {rows} ({task.basis}), {asked} are asked for")
    kind, every = settings.kind, np.arange(rows)
    whole = [reduce(v, max(AXES, 2 * settings.rank), kind) for v in (task.first, task.second, task.target)]
    ranks = (whole[0].rank, whole[1].rank, whole[2].rank // 2)
    rank = min(*ranks, settings.rank)
    if not rank:
        empty = task.names[ranks.index(0)]
        return replace(about, problem=f"{empty} is constant" if ranks[2] else f"{empty} has fewer than two components")
    if sequences < SAMPLES * rank:
        needed = f"rank {rank} needs {SAMPLES * rank}: take a lower --rank, or probe more"
        return replace(about, problem=f"too few samples: the {rows} rows are of {sequences}, {needed}")
    # Symbols are no sums of others: discrete features are chosen anew where components are turned.
    wide = [task.first, task.second, task.target] if kind == "discrete" else [each.components for each in whole]

    def parts_of(rows: Array) -> Parts:
        x, y = (reduced_to(values[rows], rank, kind) for values in wide[:2])
        return x, y, *halves(reduced_to(wide[2][rows], 2 * rank, kind), rank)

    def atoms(parts: Parts, targets: Array) -> Array:
        """Of `parts` with the targets of the rows `targets`: `[len(NAMES)]`."""
        x, y, a, b = parts
        return local_atoms(x, y, (a[targets], b[targets]), kind, settings.redundancy).mean(axis=1)

    rng = np.random.default_rng([settings.seed, task.order])
    parts = parts_of(every)
    raw = atoms(parts, every)
    null = np.stack([atoms(parts, shuffled(task.samples, rng)) for _ in range(settings.surrogates)])
    parted, parted_null = [], []
    for _ in range(settings.surrogates):
        half = half_of(task.samples, rng)
        again = parts_of(half)
        parted.append(atoms(again, np.arange(len(half))))
        parted_null.append(atoms(again, shuffled(task.samples[half], rng)))
    if not all(np.isfinite(values).all() for values in (raw, null, parted, parted_null)):
        return replace(about, problem="omegaid gave values that are not finite: a component varies on too few rows")
    eigenvalue = math.nan
    if kind == "gaussian":
        eigenvalue = smallest_eigenvalue(np.concatenate(parts, axis=1))
    return replace(
        about,
        rank=rank,
        explained=(whole[0].explained(rank), whole[1].explained(rank), whole[2].explained(2 * rank)),
        eigenvalue=eigenvalue,
        singular=eigenvalue < SINGULAR,
        values=_values(raw, null, np.stack(parted), np.stack(parted_null), sequences),
    )


def shuffled(samples: Array, rng: np.random.Generator) -> Array:
    """An order of rows that parts sources from targets: whole samples in random order, each turned by an amount of its
    own.

    Rows of one sample resemble each other, neighbours most: an order that mixed them would make surrogates of too
    little variance. Without the turns every surrogate would keep what the place in a sample tells. `samples [n]`: the
    sample of each row, rising. Where each row is a sample of its own this is any permutation.
    """
    starts = np.flatnonzero(np.diff(samples, prepend=samples[0] - 1))
    sizes = np.diff(starts, append=len(samples))
    order = rng.permutation(len(starts))
    lengths = sizes[order]
    first = np.repeat(starts[order], lengths)
    inside = np.arange(len(samples)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place: Array = first + (inside + np.repeat(rng.integers(lengths), lengths)) % np.repeat(lengths, lengths)
    return place


def half_of(samples: Array, rng: np.random.Generator) -> Array:
    """Rows (rising) of a random half of the samples."""
    names, place = np.unique(samples, return_inverse=True)
    chosen = np.zeros(len(names), bool)
    chosen[rng.permutation(len(names))[: len(names) // 2]] = True
    return np.flatnonzero(chosen[place])


def _values(raw: Array, null: Array, parted: Array, parted_null: Array, sequences: int) -> dict[str, Value]:
    """The values by name, of `raw [names]`, and of the surrogates, the halves and a surrogate of each half, all
    `[surrogates, names]`.

    An estimate on a random half, its axes found anew, deviates from that on the whole by the standard error of the
    whole (half-sampling; McCarthy 1969), chance being taken off both. Other than the deviation of local values it knows
    that redundancy is a minimum, which another sample may find at the other source. Where a relation is exact halves do
    not vary, and the surrogates' deviation is what is left. To either comes the error of the surrogates' mean.
    """
    middle, spread = null.mean(axis=0), null.std(axis=0, ddof=1)
    value = raw - middle
    apart = np.sqrt(np.square(parted - parted_null.mean(axis=0) - value).mean(axis=0))
    errors = np.sqrt(np.maximum(apart, spread) ** 2 + spread**2 / len(null))
    half = t_quantile(0.975, min(len(null), sequences) - 1) * errors
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
