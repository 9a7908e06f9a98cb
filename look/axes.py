"""What charts stand on: an SVG for a page that loads nothing, a linear axis, its numbers, and room for names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear axis with round ticks that covers what it was made for."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, values: Sequence[float], ticks: int = 5, *, zero: bool = True) -> Axis:
        """The axis over `values` with about `ticks` steps of 1, 2 or 5 times a power of ten; `zero`: 0 is on it."""
        shown = [*values, 0.0] if zero else list(values)
        low, high = min(shown), max(shown)
        span = high - low or abs(high) or 1.0
        unit = 10.0 ** math.floor(math.log10(span / ticks))
        step = next(unit * m for m in (1, 2, 5, 10) if span / (unit * m) <= ticks + 1e-9)
        bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(bottom, top if top > bottom else bottom + step, step)

    def share(self, value: float) -> float:
        """Where `value` lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [round(self.low + index * self.step, 12) for index in range(count + 1)]

    def labels(self) -> list[str]:
        """A number for each tick, with as many digits as tell it from its neighbours."""
        digits = math.floor(math.log10(max(abs(self.low), abs(self.high)) / self.step)) + 2
        return [f"{tick:.{max(6, digits)}g}" for tick in self.ticks()]


def picture(width: float, height: float, title: str, parts: Sequence[str], kind: str = "chart") -> str:
    """An SVG of `parts`, as wide as the page allows, but not so wide that its letters outgrow the text's.

    `kind` are its classes.
    """
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{1.2 * width:.0f}px">{"".join(parts)}</svg>'
    )


def rungs(axis: Axis, left: float, top: float, width: float, height: float) -> list[str]:
    """A line across with its number at the left for every tick of an axis that goes up."""
    parts = []
    for tick, label in zip(axis.ticks(), axis.labels(), strict=True):
        y = top + height * (1 - axis.share(tick))
        parts.append(f'<path class="grid" d="M{left:g} {y:.1f}h{width:.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return parts


def feet(axis: Axis, left: float, bottom: float, width: float, unit: str) -> list[str]:
    """The numbers of an axis that goes across, and its `unit`, below `bottom`."""
    parts = [
        f'<text x="{left + width * axis.share(tick):.1f}" y="{bottom + 18:.0f}" text-anchor="middle">{tick:g}</text>'
        for tick in axis.ticks()
    ]
    parts.append(f'<text x="{left + width / 2:.1f}" y="{bottom + 37:.0f}" text-anchor="middle">{escape(unit)}</text>')
    return parts


def room(text: str, *, bold: bool = False) -> float:
    """How wide `text` is in a chart, in its units: a Chinese letter is a square, a Latin one what a wide face needs."""
    return sum(13.2 if ord(letter) > 0x2E7F else 9.2 if bold else 8.2 for letter in text)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the `wanted` ones, at least `gap` apart and within [low, high] where there is room."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed: dict[int, float] = {}
    at = low - gap
    for index in order:
        at = max(wanted[index], at + gap)
        placed[index] = at
    limit = high
    for index in reversed(order):
        placed[index] = limit = min(placed[index], limit)
        limit -= gap
    return [placed[index] for index in range(len(wanted))]
