"""What an estimate is made of: rows of one sample, surrogates, halves, ranks, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from runners.oid.decomposition import NAMES
from runners.oid.estimate import Settings, _values, estimate, half_of, shuffled
from runners.oid.reduction import AXES, halves, reduce, reduced_to, smallest_eigenvalue
from tests.oid.oid_runs import task

FEW = Settings(rank=1, surrogates=10)


def test_surrogates_keep_the_rows_of_a_sample_together() -> None:
    samples = np.repeat([3, 5, 8, 9], [4, 4, 2, 5])
    order = shuffled(samples, np.random.default_rng(0))
    assert sorted(order) == list(range(15))
    blocks = np.split(order, np.flatnonzero(np.diff(samples[order])) + 1)
    assert len(blocks) == 4
    for block in blocks:
        turned = np.roll(block, -int(block.argmin()))
        assert turned.tolist() == list(range(block.min(), block.max() + 1))


def test_surrogates_leave_no_place_in_a_sample_where_it_was() -> None:
    samples, place = np.repeat(np.arange(4000), 4), np.tile(np.arange(4), 4000)
    met = np.zeros((4, 4))
    np.add.at(met, (place, place[shuffled(samples, np.random.default_rng(0))]), 1)
    # Each of the four places meets each in a quarter of the samples; the deviation of the share is 0.007.
    np.testing.assert_allclose(met / 4000, 0.25, atol=0.035)


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
        ({"rank": 19}, r"too few samples: the 300 rows are of 300, rank 19 needs 304: take a lower --rank"),
    ],
)
def test_too_few_rows_are_reported(change: dict[str, int], words: str) -> None:
    rng = np.random.default_rng(0)
    result = estimate(task(*(rng.standard_normal((300, 40)) for _ in range(3))), replace(FEW, **change))
    assert result.values == {}
    assert result.rows == 300
    assert re.search(words, result.problem)


def test_many_rows_of_few_samples_are_reported() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((300, 4)) for _ in range(3)]
    result = estimate(task(*noise, np.arange(300) // 60), FEW)
    assert "the 300 rows are of 5, rank 1 needs 16" in result.problem


@pytest.mark.parametrize(("rank", "computed"), [(2, True), (3, False)])
def test_what_a_rank_needs_are_samples_and_not_rows(rank: int, computed: bool) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((32, 8))[np.arange(320) // 10] + rng.standard_normal((320, 8)) for _ in range(3)]
    assert bool(estimate(task(*noise, np.arange(320) // 10), replace(FEW, rank=rank)).values) is computed
    # A rank that the features do not have is not asked for.
    few = [values[:, :4] for values in noise]
    assert estimate(task(*few, np.arange(320) // 10), replace(FEW, rank=9)).rank == 2


def test_few_samples_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    raw, null = rng.standard_normal(21), rng.standard_normal((50, 21))
    many, few = (_values(raw, null, null + raw, null, sequences)["Syn"] for sequences in (1000, 16))
    # Student's t at 0.975 with 15 and 49 degrees.
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2.13145 / 2.00958, abs=1e-5)


def test_the_interval_is_of_the_deviation_of_halves_from_the_whole() -> None:
    """By hand, for halves that all lie 3 above the whole when chance (1 in halves, 0.5 in the whole) is taken off."""
    null = np.tile([[0.4], [0.6]], (25, 21))
    parted = np.full((50, 21), 2.0 - 0.5 + 1 + 3)
    value = _values(np.full(21, 2.0), null, parted, np.ones((50, 21)), 1000)["Syn"]
    deviation = 0.1 * np.sqrt(50 / 49)
    assert (value.value, value.null_sd) == (pytest.approx(1.5), pytest.approx(deviation))
    assert value.high - value.value == pytest.approx(2.00958 * np.sqrt(9 + deviation**2 / 50), rel=1e-5)


def test_components_of_a_part_are_looked_for_in_those_of_the_whole() -> None:
    """Up to AXES features that is all there is: halves reduced from features and from components are the same."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((200, AXES)) * np.geomspace(3, 0.1, AXES)
    half = half_of(np.arange(200), rng)
    turned = reduced_to(reduce(values, AXES, "gaussian").components[half], 4, "gaussian")
    np.testing.assert_allclose(np.abs(turned), np.abs(reduced_to(values[half], 4, "gaussian")), atol=1e-9)
    assert reduced_to(np.ones((10, 3)), 2, "gaussian").tolist() == [[0, 0]] * 10


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
