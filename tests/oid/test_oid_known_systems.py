"""Systems whose atoms are known: redundancy, unique to either, synergy, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from runners.oid.decomposition import ATOMS, NAMES, SUMS, local_atoms
from runners.oid.estimate import Result, Settings, estimate
from tests.oid.gaussian_atoms import atoms_of, sums_of
from tests.oid.oid_runs import task

ROWS, DRAWS = 1500, 16


def inside(result: Result, expected: dict[str, float]) -> None:
    for name, number in expected.items():
        value = result.values[name]
        assert value.low <= number <= value.high, (name, number, value)


def drawn(covariance: Any, seed: int = 0, rows: int = ROWS) -> Any:
    """Rows of x, y and a target of two variables; exactly Gaussian in distribution, one variable each."""
    return np.random.default_rng(seed).multivariate_normal(np.zeros(4), covariance, rows)


def mixed(loadings: Any, noise: Any) -> Any:
    """The covariance of `loadings @ z + noise`, z standard normal."""
    loadings = np.asarray(loadings, float)
    return loadings @ loadings.T + np.diag(np.square(np.asarray(noise, float)))


def on_axes(covariance: Any, sizes: Sequence[int]) -> Any:
    """The same system with each of its parts in `sizes` on the principal axes of that part, by falling variance."""
    turned = np.zeros_like(covariance)
    ends = np.cumsum([0, *sizes])
    for start, end in pairwise(ends):
        turned[start:end, start:end] = np.linalg.eigh(covariance[start:end, start:end])[1][:, ::-1]
    return turned.T @ covariance @ turned


# Rows: x, y, two target variables; columns: independent causes.
SYSTEMS = {
    "redundancy": mixed([[1], [1], [1], [2]], [0.01, 0.01, 1, 1]),
    "unique to i": mixed([[1, 0], [0, 1], [2, 0], [1, 0]], [0.1, 0.1, 1, 1]),
    "unique to j": mixed([[1, 0], [0, 1], [0, 2], [0, 1]], [0.1, 0.1, 1, 1]),
    "synergy": mixed([[1, 3], [0, 1], [1, 0], [2, 0]], [0.1, 0.1, 0.5, 1]),
    "a mixture": mixed([[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, -1]], [0.5, 0.7, 0.5, 0.6]),
}
LARGEST = {"redundancy": "Red", "unique to i": "Un_i", "unique to j": "Un_j", "synergy": "Syn"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_intervals_hold_the_closed_form_as_often_as_they_say(name: str) -> None:
    covariance = on_axes(SYSTEMS[name], (1, 1, 2))
    by_atom = atoms_of(covariance, (1, 1, 1, 1))
    sums = sums_of(covariance, (1, 1, 1, 1))
    expected = dict(zip(NAMES, [*by_atom.ravel(), *sums.values(), by_atom.sum()], strict=True))
    covered = dict.fromkeys(NAMES, 0)
    for seed in range(DRAWS):
        values = drawn(SYSTEMS[name], seed, 400)
        result = estimate(task(values[:, :1], values[:, 1:2], values[:, 2:], order=seed), Settings(1, surrogates=15))
        for each, value in result.values.items():
            covered[each] += value.low <= expected[each] <= value.high
        found = {each: result.values[each] for each in SUMS}
        if name in LARGEST:
            largest = found.pop(LARGEST[name])
            assert largest.low > 0
            assert largest.z is not None
            assert largest.z > 10
            assert largest.value > 5 * sum(value.value for value in found.values())
    # Of 16 at 95 %, fewer than 12 come once in 1000 times. Two sources that nearly tie are the exception: which is the
    # minimum changes with the axes found, and an atom that is a minimum of all four comes out too low.
    least = {**dict.fromkeys(NAMES, 12), "rtr": 8} if name == "a mixture" else dict.fromkeys(NAMES, 12)
    assert {each: count for each, count in covered.items() if count < least[each]} == {}
    assert sum(covered.values()) >= 0.92 * DRAWS * len(NAMES)


@pytest.mark.parametrize("size", [1, 2])
def test_every_row_meets_its_own_target_and_none_is_lost(size: int) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((400, 4 * size)) @ rng.standard_normal((4 * size, 4 * size))
    parts = np.split(values, 4, axis=1)
    found = local_atoms(parts[0], parts[1], (parts[2], parts[3]), "gaussian", "MMI")
    assert found.shape == (len(NAMES), 400)
    expected = atoms_of(np.cov(values.T), (size,) * 4)
    np.testing.assert_allclose(found[: len(ATOMS)].mean(axis=1).reshape(4, 4), expected, atol=1e-9)
    np.testing.assert_allclose(found[len(ATOMS) : -1].mean(axis=1), expected.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(found[-1].mean(), expected.sum(), atol=1e-9)


@pytest.mark.parametrize("features", [8, 64, 256])
def test_independent_noise_is_zero_in_all_atoms(features: int) -> None:
    rng = np.random.default_rng(features)
    noise = [rng.standard_normal((ROWS, features)) for _ in range(3)]
    result = estimate(task(*noise), Settings(rank=4, surrogates=25))
    inside(result, dict.fromkeys(NAMES, 0.0))
    assert result.values["total"].raw > 5 * abs(result.values["total"].value)


def test_what_tokens_tell_by_their_place_is_information() -> None:
    """Four tokens in every sample, each with a mean of its own: every surrogate must lose it."""
    rng = np.random.default_rng(0)
    place = np.tile(np.arange(4), 256)
    means = [rng.standard_normal((4, 8)) for _ in range(3)]
    first, second, target = (each[place] + 0.5 * rng.standard_normal((1024, 8)) for each in means)
    result = estimate(task(first, second, target, np.repeat(np.arange(256), 4)), Settings(rank=4, surrogates=25))
    centred = [each - each.mean(axis=0) for each in means]
    joined = np.concatenate(centred, axis=1)
    covariance = on_axes(joined.T @ joined / 4 + 0.25 * np.eye(24), (8, 8, 8))
    # The means lie on three axes; which of the others is taken as the fourth makes no difference, all are noise.
    kept = [*range(4), *range(8, 12), *(16 + np.array([0, 3, 4, 7])), *(16 + np.array([1, 2, 5, 6]))]
    inside(result, sums_of(covariance[np.ix_(kept, kept)], (4,) * 4))
    assert result.values["Red"].low > 1.5
    assert result.values["total"].null_mean < 0.1


def bits(rng: np.random.Generator, share: float = 0.5) -> Any:
    return (rng.random((ROWS, 1)) < share).astype(float)


def test_xor_is_one_bit_of_synergy() -> None:
    rng = np.random.default_rng(0)
    first, second = bits(rng), bits(rng)
    other = bits(rng, 0.1)
    # Means of their own: omegaid cuts all variables at one common mean.
    target = np.concatenate([np.logical_xor(first, second), 7 + other], axis=1)
    result = estimate(task(first + 3, second - 5, target), Settings(rank=1, kind="discrete", surrogates=25))
    inside(result, {"Syn": 1, "Red": 0, "Un_i": 0, "Un_j": 0, "stx": 1, "total": 1})
    assert result.values["Syn"].raw == pytest.approx(1, abs=0.01)


def test_a_copied_bit_is_one_bit_of_redundancy() -> None:
    rng = np.random.default_rng(1)
    first = bits(rng)
    target = np.concatenate([first, bits(rng, 0.1)], axis=1)
    result = estimate(task(first, 4 - first, target), Settings(rank=1, kind="discrete", surrogates=25))
    inside(result, {"Syn": 0, "Red": 1, "Un_i": 0, "Un_j": 0, "rtx": 1})


def test_ccs_is_another_redundancy_with_the_same_total() -> None:
    values = drawn(SYSTEMS["a mixture"], rows=600)
    parts = task(values[:, :1], values[:, 1:2], values[:, 2:])
    mmi, ccs = (estimate(parts, Settings(1, redundancy, surrogates=10)) for redundancy in ("MMI", "CCS"))
    assert ccs.values["total"].raw == pytest.approx(mmi.values["total"].raw, abs=1e-9)
    assert abs(ccs.values["Red"].raw - mmi.values["Red"].raw) > 0.01
