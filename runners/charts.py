"""Charts as SVG text, for pages that load nothing: lines over steps, intervals side by side, points on a log scale.

A colour is a number from 0 to 7: the classes `series0` to `series7` carry it, and the page's style says how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def picture(width: float, height: float, title: str, parts: Sequence[str], kind: str = "chart") -> str:
    """An SVG of `parts`; the page gives its width. `kind` are its classes."""
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f"{''.join(parts)}</svg>"
    )


def rungs(axis: Axis, left: float, top: float, width: float, height: float) -> list[str]:
    """A line across with its number at the left for every tick of an axis that goes up."""
    parts = []
    for tick in axis.ticks():
        y = top + height * (1 - axis.share(tick))
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return parts


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
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


@dataclass(frozen=True)
class Line:
    """What has one name and one colour in `lines`: a course for each run, in steps and values.

    `band`: (step, low, high) of an interval around the courses.
    """

    name: str
    courses: Sequence[Sequence[Point]]
    colour: int = 0
    band: Sequence[tuple[float, float, float]] = ()


def lines(series: Sequence[Line], title: str, unit: str, across_unit: str = "optimizer step") -> str:
    """Courses over steps with the names at their ends; a course of one point is drawn as a dot.

    A name stands once, with the mean of its courses' last values. What is not finite is left out.
    """
    drawn = []
    for line in series:
        courses = [[point for point in course if math.isfinite(point[1])] for course in line.courses]
        if courses := [course for course in courses if course]:
            band = [each for each in line.band if all(map(math.isfinite, each))]
            drawn.append(Line(line.name, courses, line.colour, band))
    if not drawn:
        return '<p class="quiet">Nothing was recorded.</p>'
    every = [point for line in drawn for course in line.courses for point in course]
    bounds = [bound for line in drawn for _, *ends in line.band for bound in ends]
    across, up = Axis.over([x for x, _ in every], 6), Axis.over([*(y for _, y in every), *bounds])
    if across.step < 1 and all(float(x).is_integer() for x, _ in every):
        across = Axis(math.floor(across.low), math.ceil(across.high), 1)
    left, top, width, height = 52, 26, 380, 190

    def place(point: Point) -> Point:
        return left + width * across.share(point[0]), top + height * (1 - up.share(point[1]))

    parts = rungs(up, left, top, width, height)
    parts.append(f'<text x="{left - 44}" y="12">{escape(unit)}</text>')
    for tick in across.ticks():
        x = left + width * across.share(tick)
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{escape(across_unit)}</text>'
    )
    ends = [sum(course[-1][1] for course in line.courses) / len(line.courses) for line in drawn]
    heights = _spread([place((0, end))[1] for end in ends], 15, top, top + height)
    for line, end, y in zip(drawn, ends, heights, strict=True):
        if line.band:
            there = [place((x, high)) for x, _, high in line.band]
            back = [place((x, low)) for x, low, _ in reversed(line.band)]
            outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in [*there, *back])
            parts.append(f'<path class="band series{line.colour}" d="M{outline}Z"/>')
        for course in line.courses:
            path = "L".join("{:.1f} {:.1f}".format(*place(point)) for point in course)
            parts.append(f'<path class="line series{line.colour}" d="M{path}"/>')
            if len(course) == 1:
                cx, cy = place(course[0])
                parts.append(f'<circle class="dot series{line.colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="3"/>')
        parts.append(
            f'<text class="name series{line.colour}" x="{left + width + 8}" y="{y + 4:.1f}">{escape(line.name)} '
            f"{end:.3g}</text>"
        )
    return picture(620, top + height + 44, title, parts)


@dataclass(frozen=True)
class Bar:
    """One row of `intervals`: a mean, the half width of its interval (None: none), and the values it is made of."""

    name: str
    mean: float
    half: float | None
    values: Sequence[float]
    colour: int = 0


def intervals(bars: Sequence[Bar], title: str, unit: str) -> str:
    """Means as dots with their intervals as bars and single values as rings, one row each, against one axis."""
    if not bars:
        return '<p class="quiet">Nothing was measured.</p>'
    ends = [end for bar in bars for end in (bar.mean - (bar.half or 0), bar.mean + (bar.half or 0), *bar.values)]
    axis = Axis.over(ends)
    left, top, width, row = 140, 24, 420, 34
    height = row * len(bars)

    def x(value: float) -> float:
        return left + width * axis.share(value)

    parts = []
    for tick in axis.ticks():
        parts.append(f'<path class="{"axis" if tick == 0 else "grid"}" d="M{x(tick):.1f} {top}v{height}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{top + height + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{escape(unit)}</text>')
    for index, bar in enumerate(bars):
        y, colour = top + row * (index + 0.5), f"series{bar.colour}"
        parts.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>')
        for value in bar.values:
            parts.append(f'<circle class="ring {colour}" cx="{x(value):.1f}" cy="{y:.1f}" r="3.2"/>')
        if bar.half is not None:
            first, last = x(bar.mean - bar.half), x(bar.mean + bar.half)
            parts.append(f'<path class="line {colour}" d="M{first:.1f} {y:.1f}H{last:.1f}"/>')
            parts.append(f'<path class="line {colour}" d="M{first:.1f} {y - 6:.1f}v12M{last:.1f} {y - 6:.1f}v12"/>')
        parts.append(f'<circle class="dot {colour}" cx="{x(bar.mean):.1f}" cy="{y:.1f}" r="5"/>')
    return picture(600, top + height + 44, title, parts)


def shares(rows: Mapping[str, Sequence[float]], columns: Sequence[str], title: str, colours: Sequence[int]) -> str:
    """Squares in `rows` (name: a share for each of `columns`), each row in its colour; the number is the percent."""
    left, top, cell = 70, 22, 38
    parts = [
        f'<text x="{left + cell * (place + 0.5)}" y="{top - 8}" text-anchor="middle">{escape(name)}</text>'
        for place, name in enumerate(columns)
    ]
    for number, ((name, found), colour) in enumerate(zip(rows.items(), colours, strict=True)):
        y = top + cell * number
        parts.append(f'<text x="{left - 8}" y="{y + cell / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for place, share in enumerate(found):
            x = left + cell * place
            # Opacity carries the share: where two are chosen at a time none has more than a half.
            parts.append(
                f'<rect class="dot series{colour}" x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" '
                f'rx="3" fill-opacity="{min(1.0, 1.6 * share):.3f}"/>'
                f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">{100 * share:.0f}</text>'
            )
    return picture(left + cell * len(columns) + 4, top + cell * len(rows) + 4, title, parts)


def points_on_log(groups: Mapping[int, Sequence[Point]], title: str, across: str, up: str) -> str:
    """Points by colour over an index, heights on a logarithmic scale; what is not positive lies on the lower edge."""
    every = [point for points in groups.values() for point in points]
    positive = [y for _, y in every if y > 0]
    if not positive:
        return '<p class="quiet">No value is above zero.</p>'
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    axis = Axis.over([x for x, _ in every], 6)
    left, top, width, height = 62, 26, 400, 200
    parts = [f'<text x="4" y="12">{escape(up)}</text>']
    for power in range(low, high + 1, max(1, (high - low) // 6)):
        y = top + height * (1 - (power - low) / (high - low))
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for tick in axis.ticks():
        place = left + width * axis.share(tick)
        parts.append(f'<text x="{place:.1f}" y="{top + height + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{escape(across)}</text>')
    for colour, points in groups.items():
        for at, value in points:
            share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
            parts.append(
                f'<circle class="dot series{colour}" cx="{left + width * axis.share(at):.1f}" '
                f'cy="{top + height * (1 - share):.1f}" r="3"/>'
            )
    return picture(480, top + height + 44, title, parts)
