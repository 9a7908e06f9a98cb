"""Has the loss stopped falling? A test of equivalence that may be asked again and again while the run goes on.

The null hypothesis is that the loss *still falls at a rate that matters*: at least `Settings.matters` of its mean rate
since a quarter of the way. With t the steps so far, F the fall from the level around t/4 to the present level, and b
the slope of the loss (negative while it falls):

    -b >= matters * F / (3/4 t).

A power law t^-a falls at 3/4 a / (4^a - 1) of that mean rate at every t: 0.50 for a = 0.1 and 0.375 for a = 0.5; a
logarithm at 0.54, a straight line at 1. So with `matters` at a third none of them is ever a plateau. The first fifth of
the steps does not count, and how often the upstream logs does not either.

A slope that is merely not significant alarms nobody: what has to lie below the rate that matters is the upper
confidence bound of the rate of fall. The bound knows of correlated noise, spikes and heavy tails (`plateau_fit.py`).
alpha is divided over as many looks as independent ones would do the same (WORTH): Bonferroni over all of them would
leave half of alpha unused on the least favourable curve. Where the total is not known, it is Bonferroni's.

The slope is that of a window at the end, and belongs to the window's middle: there t and F are taken. The window is the
shortest that would show a true plateau nine times in ten. Its noise and F decide that, not its slope.

Where there is no fall to compare with (F is not above 0 with the same confidence), the rate that matters is one that
loses the scatter of one logged value over the whole run; without a total nothing is said then.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

from .plateau_fit import Line, Noise, above, block_means, fit, noise_of, quantile

GROWTH = 1.1
"""Looks are that far apart where the total is not known, as a factor of the steps."""
SPENT = 10
"""Look number k, from 0, then has SPENT/((k + SPENT)(k + SPENT + 1)) of alpha, which sums to 1 over all k."""
WORTH = 16
"""Independent looks that all looks of a run of known length are worth: their windows overlap. Calibrated on the least
favourable curve alone, one that falls at just the rate that matters all the time (bench/plateau.py)."""
POWER = 0.9
WIDER = 1.25
HUGE = 1e60
"""A loss beyond it was lost, and its fourth power is no float any more; NaN counts with it."""
EPOCHS = 2
"""Epochs in a window at least, where there is more than one: a loss often falls in steps, where the data begin anew."""


@dataclass(frozen=True)
class Settings:
    """What counts as a plateau, and how sure the alarm is to be. Raises ValueError for what makes no sense.

    alpha     chance of an alarm, at any time of a run that falls at just the smallest rate that matters
    matters   smallest rate of fall that matters, as a share of the mean rate since a quarter of the steps so far
    earliest  share of the total steps before the first look; warm-up should be over
    every     share of the total steps between two looks
    rows      logged values before the first look
    alone     the same where the total steps are not known
    shortest  the window, as shares of the steps so far: at least
    longest   and at most
    """

    alpha: float = 0.05
    matters: float = 1 / 3
    earliest: float = 0.2
    every: float = 0.025
    rows: int = 48
    alone: int = 200
    shortest: float = 0.08
    longest: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha", "matters", "earliest", "every", "shortest", "longest"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"plateau: {name} is a share between 0 and 1, not {getattr(self, name)}")
        if self.shortest > self.longest:
            raise ValueError(f"plateau: shortest {self.shortest} is above longest {self.longest}")
        if min(self.rows, self.alone) < 48:
            raise ValueError(f"plateau: {min(self.rows, self.alone)} rows say nothing; ask for 48 or more")

    @property
    def looks(self) -> int:
        """How many looks a run of known length has."""
        return 1 + math.floor((1 - self.earliest) / self.every + 1e-9)


SAID = {
    "early": "too early: no look has been taken yet",
    "few epochs": "cannot tell: too few epochs",
    "few values": "cannot tell: too few values for their noise",
    "cannot tell": "cannot tell: the loss may still fall at a rate that matters",
    "falls": "the loss falls",
    "stopped": "the loss has stopped falling",
    "not fallen": "the loss has not fallen since a quarter of the steps",
    "rises": "the loss rises",
}
SLOPE = "slope {slope} a step, between {low} and {high}, where a fall of {matters} a step matters"
ROWS = "{rows} rows so far"
LEFT_OUT = "{count} rows without a finite loss were left out"


@dataclass(frozen=True)
class Verdict:
    """What the last look said.

    `step`: the step of that look, -1 before the first. `slope`, `low`, `high`: loss per step, and the interval both of
    whose ends hold, each at all looks together, with confidence 1 - alpha. `statistic`: how far the slope is above that
    of the smallest fall that matters, in standard errors. `p`: its one-sided p at this look alone, to be compared with
    `level`, this look's share of alpha. `matters`: the smallest rate of fall that matters, in loss per step. Figures
    are NaN where nothing can be said. `kind`: a key of SAID. `since`: the first step of the window that was judged, -1
    without one; `rows`: the losses so far; `left_out`: those that were not finite.
    """

    plateau: bool
    kind: str
    step: int
    slope: float
    low: float
    high: float
    statistic: float
    p: float
    level: float
    matters: float
    since: int = -1
    rows: int = 0
    left_out: int = 0

    @property
    def said(self) -> list[tuple[str, dict[str, str]]]:
        """What there is to say, in parts: labels as `look.words.Words` takes them, and their values."""
        parts: list[tuple[str, dict[str, str]]] = [(SAID[self.kind], {})]
        if self.since >= 0:
            numbers = {name: f"{getattr(self, name):.3g}" for name in ("slope", "low", "high", "matters")}
            parts.append((SLOPE, numbers))
        elif self.step >= 0:
            parts.append((ROWS, {"rows": str(self.rows)}))
        if self.left_out:
            parts.append((LEFT_OUT, {"count": str(self.left_out)}))
        return parts

    @property
    def reason(self) -> str:
        """All of it in English."""
        return "; ".join(label.format(**values) for label, values in self.said)


NAN = math.nan


class Watch:
    """Takes the rows as they are logged; `verdict` may be asked after each of them.

    A row whose loss is not finite is left out, and counted in `Verdict.reason`. A step that is not above the last one
    is a resume: the rows from that step on are replaced by what follows, and the looks that were taken stay spent.
    After an alarm, or when a setting of the run changes, begin with a new Watch. Raises ValueError for a total below 1.
    """

    def __init__(self, settings: Settings | None = None, total_steps: int | None = None) -> None:
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"plateau: total_steps is {total_steps}; leave it out where it is not known")
        self.settings = settings or Settings()
        self.total = total_steps
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._epochs: list[float | None] = []
        self._unfit = 0
        self._looks = 0
        self._next = self.settings.earliest * total_steps if total_steps else 0.0
        self._last = Verdict(False, "early", -1, NAN, NAN, NAN, NAN, NAN, NAN, NAN)

    def add(self, step: int, loss: float, epoch: float | None = None) -> None:
        """`epoch`: passes through the data so far, where the upstream logs them."""
        if not abs(loss) < HUGE:
            self._unfit += 1
            return
        if self._steps and step <= self._steps[-1]:
            place = bisect_left(self._steps, step)
            del self._steps[place:], self._losses[place:], self._epochs[place:]
        self._steps.append(step)
        self._losses.append(loss)
        self._epochs.append(epoch)

    def spend(self, step: int) -> None:
        """Looks up to `step` were taken before, on rows that a resume has replaced since: they are not taken again."""
        if self.total is None:
            while 0 < self._next <= step:
                self._looks += 1
                self._next *= GROWTH
        elif self._next <= step:
            every = self.settings.every * self.total
            self._next += every * (1 + (step - self._next) // every)

    def verdict(self) -> Verdict:
        """That of the last look; takes the next one if it is due."""
        settings = self.settings
        rows = settings.rows if self.total else settings.alone
        if len(self._steps) < rows or self._steps[-1] < self._next:
            return self._last
        if self.total is None:
            share = SPENT / ((self._looks + SPENT) * (self._looks + SPENT + 1))
            self._next = GROWTH * self._steps[-1]
        elif self._looks == settings.looks:
            return self._last
        else:
            share = 1 / min(settings.looks, WORTH)
            every = settings.every * self.total
            self._next += every * (1 + (self._steps[-1] - self._next) // every)
        self._looks += 1
        self._last = self._look(settings.alpha * share)
        return self._last

    def _look(self, alpha: float) -> Verdict:
        steps, values, size = block_means(self._steps, self._losses)
        noise = noise_of(values[bisect_left(steps, steps[0] + (steps[-1] - steps[0]) / 4) :])
        shortest = max(self.settings.shortest, self._two_epochs())
        widths = [min(shortest * WIDER**i, self.settings.longest) for i in range(20)]
        found = None
        for width in dict.fromkeys(widths if shortest <= self.settings.longest else ()):
            comparison = self._compare(steps, values, size, width, noise, alpha)
            if comparison is not None:
                found = comparison
                if found.error * (found.bound + quantile(POWER, found.line.degrees)) <= found.matters:
                    break
        if found is None:
            kind = "few epochs" if shortest > self.settings.longest else "few values"
            said = Verdict(False, kind, self._steps[-1], NAN, NAN, NAN, NAN, NAN, alpha, NAN)
        else:
            said = found.verdict(self._steps[-1], alpha)
        return replace(said, rows=len(self._steps), left_out=self._unfit)

    def _compare(
        self, steps: list[float], values: list[float], size: int, width: float, noise: Noise, alpha: float
    ) -> Comparison | None:
        """The window of the last `width` of the steps, of blocks of `size` rows; None where they do not say enough."""
        first, went = steps[0], steps[-1] - steps[0]
        start = bisect_left(steps, steps[-1] - width * went)
        line = fit(steps[start:], values[start:], noise)
        if line is None:
            return None
        done = (1 - width / 2) * went
        early = values[bisect_left(steps, first + 0.2 * done) : bisect_left(steps, first + 0.3 * done)]
        if not early:  # no rows were logged there
            return None
        bound, since = quantile(1 - alpha, line.degrees), round(steps[start])
        fall = math.fsum(early) / len(early) - line.middle
        fall_error = line.middle_error * math.sqrt(1 + line.count / len(early))
        share = self.settings.matters / (0.75 * done)
        if fall > bound * fall_error:
            return Comparison(line, fall, share * fall, math.hypot(line.error, share * fall_error), bound, since)
        if self.total is None and line.error > 0:
            return None
        scatter = line.deviation * math.sqrt(size)
        return Comparison(line, None, scatter / (self.total or went), line.error, bound, since)

    def _two_epochs(self) -> float:
        """EPOCHS as a share of the steps so far; 0 where epochs are not told, or there is but one."""
        told = [(step, epoch) for step, epoch in zip(self._steps, self._epochs, strict=True) if epoch]
        if not told or max(told[-1][1], (self.total or 0) * told[-1][1] / told[-1][0]) <= 1:
            return 0.0
        return EPOCHS * told[-1][0] / told[-1][1] / (self._steps[-1] - self._steps[0])


@dataclass(frozen=True)
class Comparison:
    """A window's slope against the rate that matters there, both in loss per step.

    `fall` is F, None where it is not surely above 0; `error` is that of the difference, `bound` the quantile,
    `since` the first step of the window.
    """

    line: Line
    fall: float | None
    matters: float
    error: float
    bound: float
    since: int

    def verdict(self, step: int, alpha: float) -> Verdict:
        line, excess = self.line, self.line.slope + self.matters
        # Without any noise the loss is known exactly, and one that never changed does not fall.
        exact = math.inf if excess > 0 or line.slope == 0 else -math.inf
        statistic = excess / self.error if self.error > 0 else exact
        plateau = statistic > self.bound
        low, high = line.slope - self.bound * line.error, line.slope + self.bound * line.error
        if not plateau:
            kind = "falls" if statistic < -self.bound else "cannot tell"
        elif low > 0:
            kind = "rises"
        else:
            kind = "not fallen" if self.fall is None else "stopped"
        p = above(statistic, line.degrees)
        return Verdict(plateau, kind, step, line.slope, low, high, statistic, p, alpha, self.matters, self.since)
