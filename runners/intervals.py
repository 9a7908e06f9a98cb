"""Means over few runs, and how far they can be trusted: Student's t without a statistics library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """Mean of `count` values and the half width of its interval; `half` is None where one value gives no interval."""

    mean: float
    half: float | None
    count: int


def mean_of(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Mean and two-sided t-interval: half = t_{(1+c)/2, n-1} s / sqrt(n), s with n-1 in its denominator.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values, no mean")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Mean(mean, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Mean(mean, t_quantile((1 + confidence) / 2, count - 1) * spread / math.sqrt(count), count)


def ratio_of(above: Sequence[float], below: Sequence[float], confidence: float = 0.95) -> Mean | None:
    """Ratio of two means over the same runs, mean(above) / mean(below), with the interval of the paired jackknife.

    Each run is left out in turn, of both, so that what the denominator does not know, and how it goes with the
    numerator, is in the interval: with R_i the ratio without run i, half = t_{(1+c)/2, n-1} times the root of
    (n-1)/n sum (R_i - mean R)^2 (Quenouille 1956; Tukey 1958). For a denominator that is the same in every run it is
    the t-interval of the numerator over it.

    None where mean(below) is not above 0. `half` is None for one run, and where it is not above 0 without one of them:
    then the runs do not say how large the ratio may be. Raises ValueError without runs, or for unequal numbers of them.
    """
    count = len(above)
    if not count or len(below) != count:
        raise ValueError(f"a ratio of means wants the same runs above and below, not {count} and {len(below)}")
    tops, bottoms = math.fsum(above), math.fsum(below)
    if bottoms <= 0:
        return None
    left = [bottoms - value for value in below]
    if min(left) <= 0:
        return Mean(tops / bottoms, None, count)
    ratios = [(tops - value) / rest for value, rest in zip(above, left, strict=True)]
    middle = math.fsum(ratios) / count
    spread = math.sqrt((count - 1) / count * math.fsum((ratio - middle) ** 2 for ratio in ratios))
    return Mean(tops / bottoms, t_quantile((1 + confidence) / 2, count - 1) * spread, count)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t, for 0.5 <= probability < 1: bisection on the distribution function."""
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"t quantile wants 0.5 <= probability < 1 and degrees >= 1, not {probability} and {degrees}")
    low, high = 0.0, 1.0
    while t_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(value: float, degrees: int) -> float:
    """P(T <= value) for value >= 0, by the finite series for whole degrees (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(value / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    # Both series run over every second power of the cosine, each term the last one times (k-1)/k cos^2.
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term = total = 1.0
        for k in range(2, degrees - 1, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        inside = sine * total
    return 0.5 + inside / 2
