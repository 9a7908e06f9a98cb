"""omegaid's 16 atoms of two sources about two targets, sample by sample."""

from __future__ import annotations

import numpy as np

from runners.oid.probe_files import Array

ATOMS = tuple(f"{source}t{target}" for source in "rxys" for target in "rxys")
"""rtr ... sts: held by i and j redundantly (r), by i or j alone (x, y), by both only together (s); then likewise in the
target's halves."""
SUMS = {"Red": "r", "Un_i": "x", "Un_j": "y", "Syn": "s"}
"""Four atoms each: what the pair holds about the whole target. It does not depend on how the target is split in two."""
TOTAL = "total"
NAMES = (*ATOMS, *SUMS, TOTAL)
UNITS = {"gaussian": "nats", "discrete": "bits"}


def local_atoms(first: Array, second: Array, targets: tuple[Array, Array], kind: str, redundancy: str) -> Array:
    """Local (pointwise) values `[len(NAMES), n]` of all of NAMES, in UNITS[kind]; their mean over samples is the atom.

    `first`, `second` and both `targets` are `[n, rank]`: floats, or 0 and 1 where `kind` is discrete.

    omegaid pairs the source at time t with the target at t + tau. A row is no moment: with one more row behind the
    sources and one before the targets, tau = 1 pairs each row with itself and uses all of them.
    """
    from omegaid.core.decomposition import calc_phiid_multivariate

    sources, target = np.stack([first, second]), np.stack(targets)
    spare = np.zeros((2, 1, sources.shape[2]), sources.dtype)
    shifted = np.concatenate([sources, spare], axis=1), np.concatenate([spare, target], axis=1)
    atoms, _ = calc_phiid_multivariate(*shifted, tau=1, kind=kind, redundancy=redundancy)
    values = np.stack([atoms[name] for name in ATOMS])
    by_source = values.reshape(4, 4, -1).sum(axis=1)
    return np.concatenate([values, by_source, by_source.sum(axis=0, keepdims=True)])
