"""The slope of a stretch of a noisy curve and how far to trust it: spikes, heavy tails, noise that remembers itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ..intervals import t_distribution, t_quantile

MOST_BLOCKS = 400
FEWEST_BLOCKS = 16
CLIP = 2.5
"""Robust standard deviations at which a residual counts as an outlier: it costs 2 % of precision under normal noise."""
HIGHEST_PHI = 0.95
PIECE = 45
MOST_DEGREES = 200


@dataclass(frozen=True)
class Noise:
    """What neighbouring blocks know of each other: the lag-1 correlation `phi`, estimated from `count` blocks."""

    phi: float
    count: int

    @property
    def factor(self) -> float:
        """Long-run variance over variance of an AR(1): (1 + phi)/(1 - phi)."""
        return (1 + self.phi) / (1 - self.phi)


@dataclass(frozen=True)
class Line:
    """A line through `count` blocks.

    `slope` in loss per step, with standard error `error`; `middle` is the level at the mean step, with `middle_error`;
    `degrees` of freedom of both errors; `deviation` is the standard deviation of one block around the line.
    """

    slope: float
    middle: float
    error: float
    middle_error: float
    degrees: int
    deviation: float
    count: int


def block_means(steps: Sequence[float], losses: Sequence[float]) -> tuple[list[float], list[float], int]:
    """Means of steps and losses over blocks of equally many rows, at most MOST_BLOCKS of them, and the rows in a block.

    The newest rows are always in; up to a block's length of the oldest is left out.
    """
    size = max(1, -(-len(steps) // MOST_BLOCKS))
    starts = range(len(steps) % size, len(steps), size)
    return (
        [sum(steps[i : i + size]) / size for i in starts],
        [sum(losses[i : i + size]) / size for i in starts],
        size,
    )


def noise_of(values: Sequence[float]) -> Noise:
    """phi of equally spaced values that follow a smooth curve.

    The values are cut into up to four pieces, a quadratic is taken out of each, residuals are clipped, and the lag-1
    correlations are averaged; each is freed of its bias, which is -(3 + 5 phi)/n after a quadratic, as it is
    -(1 + 3 phi)/n after a mean (Kendall 1954) and -(2 + 4 phi)/n after a line. Steps and bends that the quadratic does
    not take away make phi larger, which errs to the side of no alarm. phi is not taken below 0.
    """
    pieces = max(1, min(4, len(values) // PIECE))
    edges = [round(i * len(values) / pieces) for i in range(pieces + 1)]
    total, used = 0.0, 0
    for start, end in pairwise(edges):
        rest, _ = clipped(_bent(values[start:end]))
        squares = sum(one * one for one in rest)
        if squares > 0:
            phi = sum(one * other for one, other in pairwise(rest)) / squares
            size = len(rest)
            total += size * (size * phi + 3) / (size - 5)
            used += size
    return Noise(min(max(total / used, 0.0), HIGHEST_PHI) if used else 0.0, max(used, 1))


def fit(steps: Sequence[float], values: Sequence[float], noise: Noise) -> Line | None:
    """Huber's estimate of a line, with the long-run variance of its noise.

    It starts from Tukey's (1977) resistant line, the slope between the medians of the outer thirds, and takes three
    Newton steps of Huber's equations. The variance of the clipped residuals is divided by the squared share of those
    that were not (Huber 1981, section 7.6), and by n - 2f instead of n: the line takes part of correlated noise away.
    The relative variance of the long-run variance is that of the innovations, 2/n, and of phi, 4f/m for m blocks that
    phi was taken from: 2/(2/n + 4f/m) degrees of freedom (Satterthwaite).

    None where the stretch is too short to say: fewer than FEWEST_BLOCKS, or worth fewer than four independent ones.
    """
    count = len(values)
    if count < FEWEST_BLOCKS:
        return None
    center = math.fsum(steps) / count
    places = [step - center for step in steps]
    spread = sum(place * place for place in places)
    third = count // 3
    slope = (statistics.median(values[-third:]) - statistics.median(values[:third])) / (
        statistics.median(places[-third:]) - statistics.median(places[:third])
    )
    middle = statistics.median([value - slope * place for place, value in zip(places, values, strict=True)])
    for _ in range(3):
        rest, inside = clipped([v - middle - slope * p for p, v in zip(places, values, strict=True)])
        middle += sum(rest) / inside
        slope += sum(p * one for p, one in zip(places, rest, strict=True)) / spread * count / inside
    rest, inside = clipped([v - middle - slope * p for p, v in zip(places, values, strict=True)])
    squares = sum(one * one for one in rest)
    # What rounding leaves of an exact line is no noise.
    if squares <= count * (1e-12 * max(abs(middle), abs(slope * places[0]))) ** 2:
        return Line(slope, middle, 0.0, 0.0, MOST_DEGREES, 0.0, count)
    if count < 4 * noise.factor:
        return None
    variance = squares / (count - 2 * noise.factor) * (count / inside) ** 2
    long_run = noise.factor * variance
    degrees = min(max(int(1 / (1 / count + 2 * noise.factor / noise.count)), 1), MOST_DEGREES)
    return Line(
        slope,
        middle,
        math.sqrt(long_run / spread),
        math.sqrt(long_run / count),
        degrees,
        math.sqrt(variance),
        count,
    )


def clipped(rest: Sequence[float]) -> tuple[list[float], int]:
    """Residuals clipped at CLIP robust standard deviations (median absolute deviation over 0.6745); how many were not.

    Where more than half of them are 0 there is no such deviation, and nothing is clipped.
    """
    limit = CLIP * statistics.median(map(abs, rest)) / 0.6745 or math.inf
    return [min(max(one, -limit), limit) for one in rest], sum(-limit <= one <= limit for one in rest)


def _bent(values: Sequence[float]) -> list[float]:
    """What is left of equally spaced values without the quadratic that fits them best (orthogonal polynomials)."""
    count = len(values)
    places = [i - (count - 1) / 2 for i in range(count)]
    bends = [place * place - (count * count - 1) / 12 for place in places]
    mean = sum(values) / count
    slope = sum(p * v for p, v in zip(places, values, strict=True)) / sum(p * p for p in places)
    bend = sum(b * v for b, v in zip(bends, values, strict=True)) / sum(b * b for b in bends)
    return [v - mean - slope * p - bend * b for p, b, v in zip(places, bends, values, strict=True)]


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t: `runners.intervals.t_quantile`, remembered, as a watch asks for the same few again."""
    return t_quantile(probability, degrees)


def above(statistic: float, degrees: int) -> float:
    """P(T > statistic), also for an infinite statistic."""
    if math.isinf(statistic):
        return 0.0 if statistic > 0 else 1.0
    inside = t_distribution(abs(statistic), degrees)
    return 1 - inside if statistic > 0 else inside
