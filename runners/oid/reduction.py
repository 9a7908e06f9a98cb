"""Few components in the place of many features: what omegaid sees must be small against the number of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from runners.oid.probe_files import Array

VARIES = 1e-10
"""Share of the largest component's variance below which a component is rounding."""
AXES = 64
"""Components of the whole in which those of a part of the rows are looked for: what they cost does not grow with the
features, and up to so many features nothing is left out.
"""


@dataclass(frozen=True)
class Reduced:
    """`components [n, k]` by falling variance, and the `variances [k]` as shares of all features' variance."""

    components: Array
    variances: Array

    @property
    def rank(self) -> int:
        return int(self.components.shape[1])

    def explained(self, rank: int) -> float:
        """Share of the variance in the first `rank` components."""
        return float(self.variances[:rank].sum())


def reduce(values: Array, rank: int, kind: str) -> Reduced:
    """At most `rank` components of `values [n, features]` that vary; none where all features are constant.

    gaussian: principal components, float64. discrete: the features of largest variance, 1 where above the feature's
    mean and 0 elsewhere (int64), for a rotation would mix symbols.
    """
    centred = values.astype(np.float64)
    centred -= centred.mean(axis=0)
    spread = np.square(centred).sum(axis=0)
    if not spread.any():
        return Reduced(np.empty((len(values), 0)), np.empty(0))
    if kind == "discrete":
        order = np.argsort(-spread, kind="stable")[:rank]
        order = order[spread[order] > VARIES * spread.max()]
        return Reduced((centred[:, order] > 0).astype(np.int64), spread[order] / spread.sum())
    count, features = centred.shape
    narrow = features <= count
    gram = centred.T @ centred if narrow else centred @ centred.T
    size = len(gram)
    powers, vectors = eigh(gram, subset_by_index=[max(0, size - rank), size - 1])
    powers, vectors = powers[::-1], vectors[:, ::-1]
    kept = powers > VARIES * powers[0]
    powers, vectors = powers[kept], vectors[:, kept]
    components = centred @ vectors if narrow else vectors * np.sqrt(powers)
    return Reduced(components, powers / spread.sum())


def reduced_to(values: Array, rank: int, kind: str) -> Array:
    """Just `rank` components `[n, rank]` of `values [n, features]`; 0 throughout where fewer vary on these rows."""
    components = reduce(values, rank, kind).components
    return np.pad(components, ((0, 0), (0, rank - components.shape[1])))


def halves(components: Array, rank: int) -> tuple[Array, Array]:
    """The first 2 `rank` components `[n, k]` dealt to two parts of alike variance: 0, 3, 4, 7 ... and 1, 2, 5 ..."""
    places = np.arange(2 * rank)
    first = places % 4 % 3 == 0
    return components[:, places[first]], components[:, places[~first]]


def smallest_eigenvalue(parts: Array) -> float:
    """The smallest eigenvalue of the correlation matrix of `parts [n, features]`: 0 for a singular covariance."""
    scaled = parts - parts.mean(axis=0)
    scaled /= scaled.std(axis=0, ddof=1)
    return float(np.linalg.eigvalsh(scaled.T @ scaled / (len(scaled) - 1))[0])
