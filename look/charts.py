"""Charts as SVG text, for pages that load nothing: lines over steps, intervals side by side, points on a log scale.

A colour is a number from 0 to 7: the classes `series0` to `series7` carry it, and the page's style says how. Titles,
units and names come in the page's language; `words` has what a chart says by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from look.axes import Axis, Point, feet, picture, room, rungs, spread
from look.markup import paragraph
from look.words import ENGLISH, Words

WIDTH = 480
"""Narrow, so that letters stay readable where a phone shrinks the picture."""


@dataclass(frozen=True)
class Line:
    """What has one name and one colour in `lines`: a course for each run, in steps and values.

    `band`: (step, low, high) of an interval around the courses.
    """

    name: str
    courses: Sequence[Sequence[Point]]
    colour: int = 0
    band: Sequence[tuple[float, float, float]] = ()
    dashed: bool = False


def _finite(series: Sequence[Line]) -> list[Line]:
    found = []
    for line in series:
        courses = [[point for point in course if math.isfinite(point[1])] for course in line.courses]
        if courses := [course for course in courses if course]:
            band = [each for each in line.band if all(map(math.isfinite, each))]
            found.append(replace(line, courses=courses, band=band))
    return found


def lines(
    series: Sequence[Line],
    title: str,
    unit: str,
    across_unit: str | None = None,
    *,
    words: Words = ENGLISH,
    zero: bool = True,
) -> str:
    """Courses over steps with the names at their ends; a course of one point is drawn as a dot.

    A name stands once, with the mean of its courses' last values. What is not finite is left out. `across_unit` is
    "optimizer step" by default. `zero`: 0 is on both axes.
    """
    drawn = _finite(series)
    if not drawn:
        return paragraph(words("Nothing was recorded."), "quiet")
    every = [point for line in drawn for course in line.courses for point in course]
    bounds = [bound for line in drawn for _, *ends in line.band for bound in ends]
    across = Axis.over([x for x, _ in every], 5, zero=zero)
    up = Axis.over([*(y for _, y in every), *bounds], zero=zero)
    if across.step < 1 and all(float(x).is_integer() for x, _ in every):
        across = Axis(math.floor(across.low), math.ceil(across.high), 1)
    ends = [sum(course[-1][1] for course in line.courses) / len(line.courses) for line in drawn]
    names = [f"{line.name} {end:.3g}" for line, end in zip(drawn, ends, strict=True)]
    left = max(52.0, 8 + max(map(room, up.labels())))
    top, height, beside = 26, 190, max(room(name, bold=True) for name in names)
    width = max(220.0, WIDTH - left - 8 - beside)

    def place(point: Point) -> Point:
        return left + width * across.share(point[0]), top + height * (1 - up.share(point[1]))

    parts = rungs(up, left, top, width, height)
    parts.append(f'<text x="4" y="13">{escape(unit)}</text>')
    parts += feet(across, left, top + height, width, words("optimizer step") if across_unit is None else across_unit)
    heights = spread([place((0, end))[1] for end in ends], 15, top, top + height)
    for line, name, y in zip(drawn, names, heights, strict=True):
        parts += _drawn(line, place)
        text = (
            f'<text class="name series{line.colour}" x="{left + width + 8:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        )
        parts.append(text)
    whole = max(WIDTH, left + width + 8 + beside, 4 + room(unit))
    return picture(whole, top + height + 44, title, parts)


def _drawn(line: Line, place: Callable[[Point], Point]) -> list[str]:
    """The band, then the courses."""
    parts = []
    if line.band:
        there = [place((x, high)) for x, _, high in line.band]
        back = [place((x, low)) for x, low, _ in reversed(line.band)]
        outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in [*there, *back])
        parts.append(f'<path class="band series{line.colour}" d="M{outline}Z"/>')
    dashed = " dashed" if line.dashed else ""
    for course in line.courses:
        path = "L".join("{:.1f} {:.1f}".format(*place(point)) for point in course)
        parts.append(f'<path class="line series{line.colour}{dashed}" d="M{path}"/>')
        if len(course) == 1:
            cx, cy = place(course[0])
            parts.append(f'<circle class="dot series{line.colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="3"/>')
    return parts


@dataclass(frozen=True)
class Bar:
    """One row of `intervals`: a mean, the half width of its interval (None: none), and the values it is made of."""

    name: str
    mean: float
    half: float | None
    values: Sequence[float]
    colour: int = 0


def intervals(bars: Sequence[Bar], title: str, unit: str, *, words: Words = ENGLISH) -> str:
    """Means as dots with their intervals as bars and single values as rings, one row each, against one axis."""
    if not bars:
        return paragraph(words("Nothing was measured."), "quiet")
    ends = [end for bar in bars for end in (bar.mean - (bar.half or 0), bar.mean + (bar.half or 0), *bar.values)]
    axis = Axis.over(ends)
    left, top, row = max(room(bar.name) for bar in bars) + 14, 10, 34
    width, height = max(240.0, WIDTH - left - 16), row * len(bars)

    def x(value: float) -> float:
        return left + width * axis.share(value)

    parts = []
    for tick in axis.ticks():
        parts.append(f'<path class="{"axis" if tick == 0 else "grid"}" d="M{x(tick):.1f} {top}v{height}"/>')
    parts += feet(axis, left, top + height, width, unit)
    for index, bar in enumerate(bars):
        y, colour = top + row * (index + 0.5), f"series{bar.colour}"
        parts.append(f'<text x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>')
        for value in bar.values:
            parts.append(f'<circle class="ring {colour}" cx="{x(value):.1f}" cy="{y:.1f}" r="3.2"/>')
        if bar.half is not None:
            first, last = x(bar.mean - bar.half), x(bar.mean + bar.half)
            parts.append(f'<path class="line {colour}" d="M{first:.1f} {y:.1f}H{last:.1f}"/>')
            parts.append(f'<path class="line {colour}" d="M{first:.1f} {y - 6:.1f}v12M{last:.1f} {y - 6:.1f}v12"/>')
        parts.append(f'<circle class="dot {colour}" cx="{x(bar.mean):.1f}" cy="{y:.1f}" r="5"/>')
    return picture(left + width + 16, top + height + 44, title, parts)


def shares(rows: Mapping[str, Sequence[float]], columns: Sequence[str], title: str, colours: Sequence[int]) -> str:
    """Squares in `rows` (name: a share for each of `columns`), each row in its colour; the number is the percent."""
    left, top, cell = max(map(room, rows)) + 14, 22, 38
    parts = [
        f'<text x="{left + cell * (place + 0.5):.1f}" y="{top - 8}" text-anchor="middle">{escape(name)}</text>'
        for place, name in enumerate(columns)
    ]
    for number, ((name, found), colour) in enumerate(zip(rows.items(), colours, strict=True)):
        y = top + cell * number
        parts.append(f'<text x="{left - 8:.1f}" y="{y + cell / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for place, share in enumerate(found):
            x = left + cell * place
            # Opacity carries the share: where two are chosen at a time none has more than a half. A full square would
            # leave its number too little contrast.
            parts.append(
                f'<rect class="dot series{colour}" x="{x + 1:.1f}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" '
                f'rx="3" fill-opacity="{0.4 * min(1.0, 1.6 * share):.3f}"/>'
                f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4}" text-anchor="middle">{100 * share:.0f}</text>'
            )
    return picture(left + cell * len(columns) + 4, top + cell * len(rows) + 4, title, parts)


def points_on_log(
    groups: Mapping[int, Sequence[Point]], title: str, across: str, up: str, *, words: Words = ENGLISH
) -> str:
    """Points by colour over an index, heights on a logarithmic scale; what is not positive lies on the lower edge."""
    every = [point for points in groups.values() for point in points]
    positive = [y for _, y in every if y > 0]
    if not positive:
        return paragraph(words("No value is above zero."), "quiet")
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    axis = Axis.over([x for x, _ in every], 6)
    left, top, width, height = 62, 26, 400, 200
    parts = [f'<text x="4" y="13">{escape(up)}</text>']
    for power in range(low, high + 1, max(1, (high - low) // 6)):
        y = top + height * (1 - (power - low) / (high - low))
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    parts += feet(axis, left, top + height, width, across)
    for colour, points in groups.items():
        for at, value in points:
            share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
            parts.append(
                f'<circle class="dot series{colour}" cx="{left + width * axis.share(at):.1f}" '
                f'cy="{top + height * (1 - share):.1f}" r="3"/>'
            )
    return picture(WIDTH, top + height + 44, title, parts)
