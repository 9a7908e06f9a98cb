"""Means and t-intervals against printed tables and an integral written independently."""

from __future__ import annotations

import math
import statistics

import pytest

from runners.intervals import mean_of, t_distribution, t_quantile

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
