"""Whether one course of a loss is lower than another by more than noise, over the same steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from runners.supervise.metrics.curve import Curve
from runners.supervise.plateau import HUGE
from runners.supervise.plateau_fit import FEWEST_BLOCKS, HIGHEST_PHI, Noise, block_means, fit, noise_of, quantile

MEASURES = ("eval_loss", "loss")
"""What is compared: evaluations where there are enough of them, else the loss of the training."""
ROWS = 48
"""Logged values that a comparison wants: in their second half, 24, noise is told from a difference."""
ALPHA = 0.05
"""Chance that any of a list of changes that change nothing is taken for better."""


@dataclass(frozen=True)
class Difference:
    """`loss` and `against`: means of both over the second half of the steps in common, `rows` of them.

    `is_`: their difference at the middle of that half, by a line through it; `bound`: what noise may add to it.
    """

    measure: str
    rows: int
    loss: float
    against: float
    is_: float
    bound: float

    @property
    def better(self) -> bool:
        return self.is_ + self.bound < 0


def difference(new: Curve, old: Curve, since: int, until: int, alpha: float) -> Difference | str:
    """`new` less `old` over the steps after `since` up to `until` that both logged, or why it cannot be told.

    Differences at the same step: what the batches of both have in common falls out, as a run that goes on from one
    checkpoint sees the same data. The first half, in which a change begins to work, does not count. The noise of the
    differences is `plateau_fit`'s: its correlation from all of them, taken a standard error higher, as few values tell
    little of it; Huber's line through the second half; the upper bound of its middle, one-sided at `alpha`.
    """
    common = {name: _common(new, old, name, since, until) for name in MEASURES}
    measure = next((name for name, rows in common.items() if len(rows) >= ROWS), None)
    if measure is None:
        return f"{max(map(len, common.values()))} values of the loss at the same steps, of {ROWS} that it takes"
    rows = common[measure]
    steps, values, _ = block_means([step for step, _, _ in rows], [one - other for _, one, other in rows])
    half = len(steps) // 2
    line = fit(steps[half:], values[half:], _careful(noise_of(values)))
    if line is None or len(steps) - half < FEWEST_BLOCKS:
        return (
            f"the noise of {len(rows)} values remembers itself for too long: longer trials would tell (--trial-steps)"
        )
    late = rows[len(rows) // 2 :]
    means = [math.fsum(values) / len(late) for values in zip(*((one, other) for _, one, other in late), strict=True)]
    return Difference(
        measure, len(late), means[0], means[1], line.middle, quantile(1 - alpha, line.degrees) * line.middle_error
    )


def _careful(noise: Noise) -> Noise:
    """phi a standard error above what was found: sqrt((1 - phi^2)/n) (Bartlett 1946)."""
    return Noise(min(noise.phi + math.sqrt((1 - noise.phi**2) / noise.count), HIGHEST_PHI), noise.count)


def _common(new: Curve, old: Curve, name: str, since: int, until: int) -> list[tuple[float, float, float]]:
    there = dict(old.series(name))
    found = [(float(step), value, there[step]) for step, value in new.series(name) if step in there]
    return [row for row in found if since < row[0] <= until and all(abs(loss) < HUGE for loss in row[1:])]


def interval(points: Sequence[tuple[int, float]]) -> float:
    """Steps between two logged losses: the median of the newest; infinite where there are not two."""
    gaps = [after - before for (before, _), (after, _) in pairwise(points[-ROWS:])]
    return statistics.median(gaps) if gaps else math.inf
