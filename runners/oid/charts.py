"""Pictures of atoms as SVG text: heatmaps on a scale that is centred at zero, and courses over epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

from look.axes import picture, room
from look.charts import Line, lines
from look.markup import STYLE
from look.words import ENGLISH, Words
from runners.oid.estimate import Result, Value

CSS = Path(__file__).with_name("oid.css")
SOURCES = {"Red": "redundant", "Un_i": "only i", "Un_j": "only j", "Syn": "synergistic"}
PARTS = "rxys"
CELL = 62


@dataclass(frozen=True)
class Cell:
    """One square: a value with the half width of its interval, or `words` where there is none.

    `flag`: drawn with a dashed frame.
    """

    value: Value | None = None
    words: str = ""
    flag: bool = False


def cell_of(result: Result, name: str, words: Words = ENGLISH) -> Cell:
    if result.problem:
        return Cell(words=words("not computed"))
    return Cell(result.values[name], flag=result.singular)


def limit_of(results: Sequence[Result], names: Sequence[str]) -> float:
    """The largest absolute value of `names`, at which colours are full; 1 where there is none.

    Singular results do not count where there are others: they may be large and mean nothing.
    """
    known = [result for result in results if result.values]
    counted = [result for result in known if not result.singular] or known
    return max((abs(result.values[name].value) for result in counted for name in names), default=0.0) or 1.0


def grid(
    cells: Mapping[tuple[int, int], Cell],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    limit: float,
    down: str,
    across: str,
) -> str:
    """Squares in `rows` and `columns`, coloured by value / `limit`; a value whose interval leaves out 0 is bold."""
    left, top = round(24 + max(map(room, rows)) + 8), 44
    width, height = CELL * len(columns), CELL * len(rows)
    parts = [
        f'<text class="quiet" x="{left + width / 2:.0f}" y="12" text-anchor="middle">{escape(across)}</text>',
        f'<text class="quiet" transform="translate(12 {top + height / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(down)}</text>",
    ]
    for place, name in enumerate(columns):
        parts.append(
            f'<text x="{left + CELL * (place + 0.5):.0f}" y="{top - 8}" text-anchor="middle">{escape(name)}</text>'
        )
    for place, name in enumerate(rows):
        y = top + CELL * (place + 0.5) + 4
        parts.append(f'<text x="{left - 8}" y="{y:.0f}" text-anchor="end">{escape(name)}</text>')
    for (row, column), cell in cells.items():
        parts.append(_square(cell, left + CELL * column, top + CELL * row, limit))
    parts.append(f'<rect class="frame" x="{left}" y="{top}" width="{width}" height="{height}"/>')
    return picture(left + width + 6, top + height + 6, title, parts, "chart heat")


def _square(cell: Cell, x: float, y: float, limit: float) -> str:
    square = f'x="{x + 1:.0f}" y="{y + 1:.0f}" width="{CELL - 2}" height="{CELL - 2}"'
    middle = x + CELL / 2
    if cell.value is None:
        lines_of = "".join(
            f'<text class="quiet" x="{middle:.0f}" y="{y + CELL / 2 + 15 * place - 2:.0f}" text-anchor="middle">'
            f"{escape(word)}</text>"
            for place, word in enumerate(cell.words.split())
        )
        return f'<rect class="blank" {square}/>{lines_of}'
    value = cell.value
    share = min(1.0, abs(value.value) / limit) if limit else 0.0
    sure = "sure" if value.low > 0 or value.high < 0 else "unsure"
    text = f'text-anchor="middle" x="{middle:.0f}"'
    parts = [
        f'<rect class="blank" {square}/>' if cell.flag else "",
        f'<rect class="{"less" if value.value < 0 else "more"}" fill-opacity="{share:.3f}" {square}/>',
        f'<rect class="flag" {square}/>' if cell.flag else "",
        f'<text class="{sure}" {text} y="{y + CELL / 2 - 2:.0f}">{short(value.value)}</text>',
        f'<text {text} y="{y + CELL / 2 + 15:.0f}">± {short((value.high - value.low) / 2).lstrip("+")}</text>',
    ]
    return "".join(parts)


def short(value: float) -> str:
    """Three digits at most, with a sign, that fit a square: +0.123, -12.3, +4e-05."""
    if value == 0:
        return "0"
    if abs(value) < 0.0005:
        return f"{value:+.0e}"
    return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.3g}"


def expert_map(
    results: Sequence[Result], name: str, names: Mapping[str, str], limit: float, title: str, words: Words = ENGLISH
) -> str:
    """Expert against expert: the sum `name` of each pair, on both sides of an empty diagonal."""
    experts = list(names)
    cells = {}
    for result in results:
        first, second = experts.index(result.first), experts.index(result.second)
        cells[first, second] = cells[second, first] = cell_of(result, name, words)
    labels = list(names.values())
    return grid(cells, labels, labels, title, limit, words("expert i"), words("expert j"))


def atom_map(result: Result, limit: float, title: str, words: Words = ENGLISH) -> str:
    """The 16 atoms of one pair: rows say how the sources hold it, columns how the two halves of the target do."""
    cells = {
        (row, column): cell_of(result, f"{source}t{target}", words)
        for row, source in enumerate(PARTS)
        for column, target in enumerate(PARTS)
    }
    columns = [words(name) for name in ("both", "half 1", "half 2", "joint")]
    return grid(cells, list(SOURCES), columns, title, limit, words("in i and j"), words("in the target"))


def scale(limit: float, unit: str, width: float = 400, words: Words = ENGLISH) -> str:
    """The legend of the heatmaps that have this limit."""
    left, steps = 26, 81
    parts = []
    for step in range(steps):
        share = 2 * step / (steps - 1) - 1
        x = left + width * step / steps
        parts.append(
            f'<rect class="{"less" if share < 0 else "more"}" fill-opacity="{abs(share):.3f}" x="{x:.1f}" y="4" '
            f'width="{width / steps + 0.4:.1f}" height="16"/>'
        )
    for share in (-1, -0.5, 0, 0.5, 1):
        x = left + width * (share + 1) / 2
        parts.append(f'<path class="axis" d="M{x:.1f} 20v4"/>')
        parts.append(f'<text x="{x:.1f}" y="37" text-anchor="middle">{share * limit:.3g}</text>')
    parts.append(f'<rect class="frame" x="{left}" y="4" width="{width}" height="16"/>')
    parts.append(
        f'<text x="{left + width / 2}" y="55" text-anchor="middle">'
        f"{words('{unit}, surrogates subtracted', unit=escape(unit))}</text>"
    )
    return picture(2 * left + width, 62, words("colour scale, {unit}", unit=unit), parts, "chart scale")


def course(results: Sequence[Result], names: Sequence[str], title: str, unit: str, words: Words = ENGLISH) -> str:
    """The values called `names` of one pair over epochs, each with its 95 % interval as a band."""
    known = [result for result in results if result.values]
    series = []
    for colour, name in enumerate(names, 1):
        found = [(float(result.epoch), result.values[name]) for result in known]
        middle = [(epoch, value.value) for epoch, value in found]
        series.append(Line(name, [middle], colour, [(epoch, value.low, value.high) for epoch, value in found]))
    return lines(series, title, unit, words("epoch"), words=words)


_PICTURE = re.compile(
    r'<svg class="([^"]*)" role="img" aria-label="([^"]*)" viewBox="0 0 (\d+) (\d+)" style="[^"]*">(.*)</svg>', re.S
)


def standalone(svg: str, legend: str = "") -> str:
    """A chart as a file of its own, in light and dark: its title above, `legend` (another chart) below.

    Raises ValueError for what `picture` did not draw.
    """
    kind, title, width, height, drawn = _parts(svg)
    wide = max(width, round(room(unescape(title), bold=True)) + 12)
    parts = [f'<text class="sure" x="6" y="16">{title}</text><g transform="translate(0 24)">{drawn}</g>']
    high = height + 24
    if legend:
        *_, legend_width, legend_height, below = _parts(legend)
        parts.append(f'<g transform="translate(0 {high + 8})">{below}</g>')
        wide, high = max(wide, legend_width), high + 8 + legend_height
    style = STYLE.read_text(encoding="utf-8") + CSS.read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" style="background:var(--page);font-family:system-ui,sans-serif" '
        f'class="{kind}" role="img" aria-label="{title}" viewBox="0 0 {wide} {high}">'
        f"<style>{escape(style, quote=False)}</style>{''.join(parts)}</svg>"
    )


def _parts(svg: str) -> tuple[str, str, int, int, str]:
    found = _PICTURE.fullmatch(svg)
    if not found:
        raise ValueError(f"no chart of look/charts.py: {svg[:80]}")
    kind, title, width, height, drawn = found.groups()
    return kind, title, int(width), int(height), drawn
