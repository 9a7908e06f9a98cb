"""What an estimate is made of: rows of one sample, surrogates, halves, ranks, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from runners.oid.decomposition import NAMES
from runners.oid.estimate import Settings, estimate, half_of, shuffled
from runners.oid.reduction import halves, reduce, smallest_eigenvalue
from tests.oid.oid_runs import task

FEW = Settings(rank=1, surrogates=10)


def test_surrogates_keep_the_rows_of_a_sample_together() -> None:
    samples = np.repeat([3, 5, 8, 9], [4, 4, 2, 5])
    order = shuffled(samples, np.random.default_rng(0))
    assert sorted(order) == list(range(15))
    together = sum(after == before + 1 for before, after in zip(order, np.roll(order, -1), strict=True))
    assert together >= 15 - 4
    assert list(order) != list(range(15))


def test_halves_hold_whole_samples() -> None:
    samples = np.repeat(np.arange(10), 3)
    rows = half_of(samples, np.random.default_rng(0))
    assert len(rows) == 15
    assert np.bincount(samples[rows], minlength=10).tolist().count(3) == 5


def test_rows_of_one_sample_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(2)
    samples = np.repeat(np.arange(60), 10)
    noise = [rng.standard_normal((60, 2))[samples] + 0.01 * rng.standard_normal((600, 2)) for _ in range(3)]
    settings = Settings(rank=1, surrogates=40)
    known = estimate(task(*noise, samples), settings).values["total"]
    assert known.low <= 0 <= known.high
    taken_apart = estimate(task(*noise), settings).values["total"]
    # Chance gives 2 * 2 / (2 n) nats, n the samples: 60 of them, and not 600.
    assert taken_apart.null_mean == pytest.approx(4 / 1200, rel=0.5)
    assert known.null_mean == pytest.approx(4 / 120, rel=0.5)
    assert taken_apart.z is not None
    assert taken_apart.z > 4


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    for rows, features in ((50, 6), (20, 40)):
        values = rng.standard_normal((rows, features)) * np.geomspace(3, 0.1, features)
        reduced = reduce(values.astype(np.float32), 3, "gaussian")
        centred = values.astype(np.float32).astype(np.float64)
        centred -= centred.mean(axis=0)
        left, scales, _ = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(np.abs(reduced.components), np.abs(left * scales)[:, :3], atol=1e-9)
        shares = scales**2 / (scales**2).sum()
        np.testing.assert_allclose(reduced.variances, shares[:3])
        assert reduced.explained(2) == pytest.approx(shares[:2].sum())


def test_components_that_do_not_vary_are_none() -> None:
    rng = np.random.default_rng(0)
    thin = rng.standard_normal((30, 1)) @ rng.standard_normal((1, 5))
    assert reduce(thin, 4, "gaussian").rank == 1
    assert reduce(np.ones((30, 5)), 4, "gaussian").rank == 0
    assert reduce(np.ones((30, 5)), 4, "discrete").rank == 0


def test_discrete_features_are_chosen_and_not_mixed() -> None:
    values = np.array([[0, 9, 5], [0, 1, 5], [1, 9, 5], [0, 1, 5]], float)
    reduced = reduce(values, 3, "discrete")
    assert reduced.components.tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
    # Sums of squares about the mean: 0.75 and 64.
    assert reduced.explained(1) == pytest.approx(64 / 64.75)


def test_halves_deal_components_of_alike_variance() -> None:
    first, second = halves(np.arange(9)[None], 4)
    assert first.tolist() == [[0, 3, 4, 7]]
    assert second.tolist() == [[1, 2, 5, 6]]


def test_a_source_that_repeats_the_other_is_flagged() -> None:
    rng = np.random.default_rng(0)
    first, target = rng.standard_normal((300, 1)), rng.standard_normal((300, 2))
    assert estimate(task(first, 2 * first, target), FEW).singular
    plain = estimate(task(first, rng.standard_normal((300, 1)), target), FEW)
    assert not plain.singular
    assert 0.5 < plain.eigenvalue < 1


def test_smallest_eigenvalue_of_two_correlated_variables() -> None:
    first = np.array([1.0, -1, 1, -1])
    second = np.array([1.0, -1, -1, 1])
    mixed = np.stack([first, 0.6 * first + 0.8 * second], axis=1)
    assert smallest_eigenvalue(mixed) == pytest.approx(1 - 0.6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_samples": 301}, r"too few common samples: 300 \(dense evaluation\), 301 are asked for"),
        ({"rank": 40}, r"too few common samples: 300 .* 320 are asked for"),
    ],
)
def test_too_few_rows_are_reported(change: dict[str, int], words: str) -> None:
    rng = np.random.default_rng(0)
    result = estimate(task(*(rng.standard_normal((300, 4)) for _ in range(3))), replace(FEW, **change))
    assert result.values == {}
    assert result.rows == 300
    assert re.search(words, result.problem)


def test_many_rows_of_few_samples_are_reported() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((300, 4)) for _ in range(3)]
    result = estimate(task(*noise, np.arange(300) // 60), FEW)
    assert "the 300 rows are of 5" in result.problem


def test_what_is_constant_is_named() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((300, 4))
    assert estimate(task(noise, np.zeros((300, 4)), noise), FEW).problem == "b is constant"
    assert estimate(task(noise, noise, noise[:, :1]), FEW).problem == "t has fewer than two components"


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_numbers_that_are_not_finite_are_no_result() -> None:
    rng = np.random.default_rng(0)
    # A half of the rows is without the only one that differs, and its deviation is 0 exactly.
    spike = np.zeros((256, 1))
    spike[7] = 1
    result = estimate(task(rng.standard_normal((256, 4)), spike, rng.standard_normal((256, 4))), FEW)
    assert "not finite" in result.problem
    assert result.values == {}


def test_the_seed_and_the_place_decide() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((300, 4)) for _ in range(3)]
    first = estimate(task(*noise), FEW)
    assert estimate(task(*noise), FEW) == first
    assert estimate(task(*noise), replace(FEW, seed=1)).values != first.values
    assert estimate(task(*noise, order=1), FEW).values != first.values
    assert list(first.values) == list(NAMES)
