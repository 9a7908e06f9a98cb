"""Simulated training losses whose truth is known: the curve without noise, where it stops falling, and the noise on it.

A curve is a function of u, the share of the run that is done, in (0, 1]. Noise is in units of the fall of the noiseless
curve after its first tenth, as what came before is a transient that says little of how noisy a run is. The truth is
taken from the curve without noise, and without steps at epochs, by the definition that `runners.supervise.plateau` has.

Calibration: two runs of 1,000 steps of LLaMA-Factory on a tiny model, as logged and averaged over 5 steps, had standard
deviations of 0.001 to 0.09 of that fall, phi 0 to 0.2 and kurtosis 3 to 260 (spikes). Losses of single batches of
starVLA's stand-in and tiny model (up to 400 rows) had 0.2 to 4, phi -0.3 to 0.3, kurtosis 2 to 12. phi up to 0.9 stands
for upstreams that log running means.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

Curve = Callable[[float], float]
GRID = 400
FLAT = 1 / 3
"""Between the rate that matters and this share of it, either verdict is right: no test tells two equal rates apart."""
TOLD = (8, 30)
"""Epochs of a run in which the loss falls in steps."""


@dataclass(frozen=True)
class Case:
    """One run, `losses` logged at equal distances, the last one at its end.

    Until `onset`, a share of the run, the loss falls at a rate that matters; from `flat` on at no more than FLAT of
    that rate. Both are None where it falls to the end. `noise`: standard deviation of a logged value over the fall;
    `epochs`: how many the run has, None where the upstream does not tell.
    """

    family: str
    losses: list[float]
    onset: float | None
    flat: float | None
    noise: float
    phi: float
    epochs: int | None
    scatter: float = 0.0
    """Standard deviation of a logged value, in units of the losses, where the run ends."""


def power(u: float, a: float, c: float) -> float:
    return (u + c) ** -a


def stretched(u: float, k: float, b: float) -> float:
    return math.exp(-k * u**b)


def logarithm(u: float, c: float) -> float:
    return -math.log(u + c)


def linear(u: float) -> float:
    return -u


def cosine(u: float, x: float) -> float:
    return (1 + math.cos(math.pi * u * x)) / 2


def transient(u: float, tau: float, size: float, rest: Curve) -> float:
    return size * math.exp(-u / tau) + rest(u)


def hyperbola(u: float, k: float) -> float:
    return 1 / (1 + k * u)


def root(u: float) -> float:
    return -math.sqrt(u)


def broken(u: float, at: float, a: float) -> float:
    """A power law whose second part falls half as fast again."""
    return (u + 0.01) ** -a if u < at else (at + 0.01) ** -a * ((u + 0.01) / (at + 0.01)) ** (-1.5 * a)


def warmed(u: float, warm: float, curve: Curve) -> float:
    """The rate of learning rises linearly until `warm`: the curve's own time runs slower there."""
    return curve(u * u / (2 * warm) if u < warm else u - warm / 2)


def stopped(u: float, onset: float, curve: Curve) -> float:
    return curve(min(u, onset) / onset)


def slowed(u: float, onset: float, width: float, curve: Curve) -> float:
    """As `stopped`, with a soft minimum: time dies away over a few `width`."""
    return curve((onset - width * math.log1p(math.exp((onset - u) / width))) / onset + 0.02)


def turned(u: float, onset: float, rise: float, curve: Curve) -> float:
    """Stops falling and rises: over-fitting, or the beginning of a divergence."""
    return stopped(u, onset, curve) + rise * max(u - onset, 0.0)


def logistic(u: float, at: float, width: float) -> float:
    return 1 / (1 + math.exp((u - at) / width)) - 0.3 * min(u, at)


def staircase(u: float, epochs: int, depth: float, curve: Curve) -> float:
    """Data seen again: a share `depth` of what an epoch brings comes at once where the next one begins."""
    return (1 - depth) * curve(u) + depth * curve(max(math.floor(u * epochs), 0.5) / epochs)


def falling(draw: random.Random, held: bool) -> tuple[str, Curve]:
    """A curve that falls to the end."""
    if held:
        return draw.choice(
            [
                ("hyperbola", partial(hyperbola, k=draw.uniform(0.5, 4))),
                ("stretched exponential", partial(stretched, k=draw.uniform(0.5, 2), b=draw.uniform(0.4, 0.9))),
                ("square root", root),
                ("broken power law", partial(broken, at=draw.uniform(0.3, 0.7), a=draw.uniform(0.1, 0.4))),
            ]
        )
    law = partial(power, a=draw.uniform(0.1, 0.5), c=10 ** draw.uniform(-3.5, -2))
    return draw.choice(
        [
            ("power law", law),
            ("exponential", partial(stretched, k=draw.uniform(0.5, 2.2), b=1.0)),
            ("linear", linear),
            ("logarithm", partial(logarithm, c=10 ** draw.uniform(-3.5, -2))),
            ("cosine", partial(cosine, x=draw.uniform(0.4, 0.8))),
            ("transient and power law", partial(transient, tau=draw.uniform(0.01, 0.03), size=2.0, rest=law)),
        ]
    )


def flat(draw: random.Random, held: bool) -> tuple[str, Curve]:
    """A curve that stops falling."""
    onset, base = draw.uniform(0.2, 0.7), falling(draw, held)[1]
    if held:
        return draw.choice(
            [
                ("stops, other laws", partial(stopped, onset=onset, curve=base)),
                ("logistic", partial(logistic, at=0.8 * onset, width=draw.uniform(0.01, 0.04))),
                ("stretched to floor", partial(stretched, k=draw.uniform(5, 12), b=draw.uniform(0.9, 1.3))),
            ]
        )
    return draw.choice(
        [
            ("stops at once", partial(stopped, onset=onset, curve=base)),
            ("stops softly", partial(slowed, onset=onset, width=draw.uniform(0.005, 0.03), curve=base)),
            ("exponential to floor", partial(stretched, k=draw.uniform(4, 13), b=1.0)),
            ("stops and rises", partial(turned, onset=onset, rise=draw.uniform(0.05, 0.5), curve=base)),
        ]
    )


def matters_at(curve: Curve, matters: float) -> list[bool]:
    """At u = i/GRID, i from GRID/10 + 1 to GRID: does it fall at `matters` of its mean rate since u/4 at least?"""
    width, found = 0.5 / GRID, []
    for i in range(GRID // 10 + 1, GRID + 1):
        u = i / GRID
        early = sum(curve(u * (0.205 + 0.01 * j)) for j in range(10)) / 10
        rate = (curve(u - width) - curve(u)) / width
        found.append(rate > 0 and rate * 0.75 * u >= matters * (early - curve(u)))
    return found


def onset_of(falls: list[bool]) -> float | None:
    """Where a curve that fell since its first tenth stops falling for good: 1 at the end of the run.

    None for a curve with a plateau on the way: an alarm there would be right, and is not what is counted here.
    """
    count = sum(falls)
    return (GRID // 10 + count) / GRID if all(falls[:count]) else None


def noise(draw: random.Random, rows: int, phi: float, held: bool) -> list[float]:
    """AR(1) noise of unit variance: normal or Student's t(4); held out: Laplace or skewed, or a running mean of 8."""
    kind = draw.choice(("laplace", "skewed", "running mean") if held else ("normal", "normal", "t4"))

    def one() -> float:
        if kind == "t4":
            return draw.gauss(0, 1) / math.sqrt(draw.gammavariate(2, 0.5)) / math.sqrt(2)
        if kind == "laplace":
            return draw.choice((-1, 1)) * draw.expovariate(math.sqrt(2))
        if kind == "skewed":
            return draw.gammavariate(2, 1 / math.sqrt(2)) - math.sqrt(2)
        return draw.gauss(0, 1)

    if kind == "running mean":
        raw = [one() for _ in range(rows + 7)]
        return [sum(raw[i : i + 8]) / math.sqrt(8) for i in range(rows)]
    values, value, fresh = [], one(), math.sqrt(1 - phi * phi)
    for _ in range(rows):
        values.append(value)
        value = phi * value + fresh * one()
    return values


def case(seed: int, plateau: bool, held: bool, matters: float, noises: tuple[float, float], again: int = 0) -> Case:
    """One simulated run, the same for the same arguments.

    `noises`: the range of the logged values' standard deviation over the fall after the first tenth, log-uniform.
    `again`: which noise: the same curve with noise of its own for each.
    """
    draw = random.Random(f"{seed} {plateau} {held}")
    while True:
        family, truth = flat(draw, held) if plateau else falling(draw, held)
        if draw.random() < 0.5:
            truth = partial(warmed, warm=draw.uniform(0.01, 0.06), curve=truth)
        onset = onset_of(matters_at(truth, matters))
        flat_from = onset_of(matters_at(truth, FLAT * matters))
        if onset is None or flat_from is None:
            continue
        if (0.2 <= flat_from <= 0.7) if plateau else onset == 1:
            break
    curve, epochs = truth, None
    if draw.random() < 0.2:
        number, told = draw.randint(*TOLD), draw.random() < 0.5
        curve = partial(staircase, epochs=number, depth=draw.uniform(0.3, 0.9), curve=truth)
        epochs = number if told else None
        kind = "stops, steps at epochs" if plateau else "steps at epochs"
        family = f"{kind}, {'told' if told else 'not told'}"
    rows = round(math.exp(draw.uniform(math.log(300), math.log(4000))))
    phi = draw.uniform(0, 0.3) if draw.random() < 0.5 else draw.uniform(0.3, 0.9)
    size = math.exp(draw.uniform(math.log(noises[0]), math.log(noises[1])))
    fall = truth(0.1) - min(truth(1.0), truth(onset))
    level = truth(1.0) - draw.uniform(0.3, 2) * fall  # what no training takes away
    scaled, spikes = draw.random() < 0.5, draw.random() < 0.3
    # Noise that goes with the loss is of the size asked for where the curve ends.
    end = truth(1.0) - level
    losses = []
    draw = random.Random(f"{seed} {plateau} {held} {again}") if again else draw
    for i, one in enumerate(noise(draw, rows, phi, held), 1):
        u = i / rows
        above = curve(u) - level
        value = above + one * size * fall * (above / end if scaled else 1)
        if spikes and draw.random() < 0.005:
            value += size * fall * draw.uniform(5, 30)
        losses.append(value)
    if not plateau:
        return Case(family, losses, None, None, size, phi, epochs, size * fall)
    return Case(family, losses, onset, flat_from, size, phi, epochs, size * fall)


def least_favourable(seed: int, matters: float, noises: tuple[float, float]) -> Case:
    """A power law that falls at `matters` of its mean rate since a quarter of the way, at every time.

    Its exponent solves that, by bisection, as `matters_at` measures it.
    """
    draw = random.Random(f"{seed} least favourable")
    low, high = 0.1, 3.0
    for _ in range(60):
        a = (low + high) / 2
        early = sum((0.205 + 0.01 * j) ** -a for j in range(10)) / 10
        low, high = (a, high) if 0.75 * a / (early - 1) > matters else (low, a)
    rows = round(math.exp(draw.uniform(math.log(300), math.log(4000))))
    phi = draw.uniform(0, 0.3) if draw.random() < 0.5 else draw.uniform(0.3, 0.9)
    size = math.exp(draw.uniform(math.log(noises[0]), math.log(noises[1])))
    fall = 0.1**-low - 1
    # What no run shows, the pole at 0, is cut off: the first fiftieth of the steps.
    pairs = enumerate(noise(draw, rows, phi, False), 1)
    losses = [max(i / rows, 0.02) ** -low + size * fall * one for i, one in pairs]
    return Case("least favourable", losses, None, None, size, phi, None)
