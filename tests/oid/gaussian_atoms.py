"""All 16 atoms of a Gaussian system from its covariance, in float64, by Möbius inversion on the product lattice.

Written from the definition (Mediano et al. 2021; redundancy: the minimum mutual information), not from omegaid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NODES: tuple[tuple[str, ...], ...] = (("x", "y"), ("x",), ("y",), ("xy",))
"""{1}{2}, {1}, {2}, {12}: sets of groups of variables, as in the names r, x, y, s."""
ZETA = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], float)
"""Which atoms lie below each node."""


def atoms_of(covariance: Any, sizes: Sequence[int]) -> Any:
    """`[4, 4]` nats, rows by source (r, x, y, s), columns by target, of x, y, a, b with `sizes` variables."""
    ends = np.cumsum([0, *sizes])
    where = {name: list(range(ends[i], ends[i + 1])) for i, name in enumerate("xyab")}

    def entropy(names: str) -> float:
        index = [place for name in names for place in where[name]]
        return 0.5 * float(np.linalg.slogdet(covariance[np.ix_(index, index)])[1])

    def mutual(sources: str, targets: str) -> float:
        return entropy(sources) + entropy(targets) - entropy(sources + targets)

    def below(node: tuple[str, ...], other: tuple[str, ...]) -> float:
        as_targets = [names.replace("x", "a").replace("y", "b") for names in other]
        return min(mutual(source, target) for source in node for target in as_targets)

    cumulative = np.array([[below(source, target) for target in NODES] for source in NODES])
    inverse = np.linalg.inv(ZETA)
    return inverse @ cumulative @ inverse.T


def sums_of(covariance: Any, sizes: Sequence[int]) -> dict[str, float]:
    """Red, Un_i, Un_j, Syn about both targets together."""
    return dict(zip(("Red", "Un_i", "Un_j", "Syn"), atoms_of(covariance, sizes).sum(axis=1).tolist(), strict=True))
