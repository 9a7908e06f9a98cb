"""Means and t-intervals against printed tables and an integral written independently."""

from __future__ import annotations

import math
import random
import statistics
from fractions import Fraction

import pytest

from runners.intervals import mean_of, ratio_of, t_distribution, t_quantile

# Two-sided 95 % points of Student's t, from the printed tables (Fisher and Yates; NIST handbook 1.3.6.7.2).
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
TABLE |= {15: 2.131, 20: 2.086, 29: 2.045, 30: 2.042, 60: 2.000, 100: 1.984}


def integral(value: float, degrees: int, parts: int = 20000) -> float:
    """P(T <= value) by Simpson's rule over the density."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def density(x: float) -> float:
        return scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2)

    width = value / parts
    inner = sum((4 if i % 2 else 2) * density(i * width) for i in range(1, parts))
    return 0.5 + width / 3 * (density(0) + inner + density(value))


@pytest.mark.parametrize(("degrees", "point"), TABLE.items())
def test_quantiles_are_the_printed_ones(degrees: int, point: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(point, abs=5.1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12, 33])
@pytest.mark.parametrize("value", [0.1, 1.0, 2.5])
def test_the_distribution_is_the_integral_of_the_density(degrees: int, value: float) -> None:
    assert t_distribution(value, degrees) == pytest.approx(integral(value, degrees), abs=1e-9)


def test_a_mean_and_its_interval_by_hand() -> None:
    values = [0.62, 0.71, 0.55, 0.66, 0.7]
    found = mean_of(values)
    assert found.mean == pytest.approx(0.648)
    assert found.half == pytest.approx(2.776445 * statistics.stdev(values) / math.sqrt(5), rel=1e-6)
    assert found.count == 5


def test_one_value_gives_no_interval_and_none_no_mean() -> None:
    assert mean_of([0.25]).half is None
    assert mean_of([0.25, 0.25]).half == 0
    with pytest.raises(ValueError, match="no values"):
        mean_of([])


# What two arms win back, and what a disturbance costs, at five seeds.
GAINED, COST = [0.30, 0.42, 0.18, 0.36, 0.24], [0.40, 0.44, 0.26, 0.50, 0.30]


def test_a_ratio_of_means_has_the_interval_of_tukeys_pseudo_values() -> None:
    """Written the other way, exactly: pseudo-values n R - (n - 1) R_i, and the standard error of their mean."""
    above, below = ([Fraction(str(value)) for value in values] for values in (GAINED, COST))
    whole = sum(above) / sum(below)
    pseudo = []
    for out in range(5):
        kept = [i for i in range(5) if i != out]
        pseudo.append(5 * whole - 4 * sum(above[i] for i in kept) / sum(below[i] for i in kept))
    variance = sum((value - sum(pseudo) / 5) ** 2 for value in pseudo) / 4 / 5
    found = ratio_of(GAINED, COST)
    assert found.mean == pytest.approx(float(whole))
    assert found.half == pytest.approx(2.776445 * math.sqrt(variance), rel=1e-6)
    assert found.count == 5


def test_a_known_denominator_gives_the_t_interval_of_the_numerator() -> None:
    found, plain = ratio_of(GAINED, [0.5] * 5), mean_of(GAINED)
    assert found.mean == pytest.approx(plain.mean / 0.5)
    assert found.half == pytest.approx(plain.half / 0.5)


def test_the_interval_of_a_ratio_knows_how_the_two_go_together() -> None:
    assert ratio_of([0.8 * cost for cost in COST], COST).half == pytest.approx(0, abs=1e-12)
    against = ratio_of(GAINED, COST[::-1]).half
    assert against > ratio_of(GAINED, COST).half


def test_the_interval_of_a_ratio_holds_it_about_as_often_as_it_says() -> None:
    """Five seeds whose cost is uncertain by a third; taken as known, it would be held in fewer than three of five."""
    draw = random.Random(3)
    hits = known = 0
    for _ in range(400):
        below = [draw.gauss(0.4, 0.13) for _ in range(5)]
        above = [draw.gauss(0.32, 0.03) for _ in range(5)]
        found = ratio_of(above, below)
        hits += abs(found.mean - 0.8) <= found.half
        known += abs(found.mean - 0.8) <= mean_of(above).half / (sum(below) / 5)
    assert hits / 400 == pytest.approx(0.95, abs=0.04)
    assert known / 400 < 0.6


def test_a_ratio_without_a_denominator_is_none_and_with_a_doubtful_one_has_no_interval() -> None:
    assert ratio_of([0.1, 0.2], [0.3, -0.3]) is None
    doubtful = ratio_of([0.1, 0.2], [0.5, -0.1])
    assert doubtful.mean == pytest.approx(0.75)
    assert doubtful.half is None
    assert ratio_of([0.1], [0.2]).half is None
    for above, below in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match="same runs"):
            ratio_of(above, below)
