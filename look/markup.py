"""What every page of this project is made of: one HTML file that loads nothing, with its style and its tables.

What is called HTML here is put in as it is; what is called text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).resolve().parent / "report.css"
PAGE_LANGUAGE = {"en": "en", "zh": "zh-CN"}


def document(title: str, body: str, style: str = "", lang: str = "en") -> str:
    """The page around `body` (HTML) in `lang`; `style` is CSS after that of every page."""
    common = STYLE.read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="{PAGE_LANGUAGE[lang]}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{common}{style}</style></head><body>
{body}
</body></html>
"""


def paragraph(html: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html}</p>' if kind else f"<p>{html}</p>"


def section(name: str, title: str) -> str:
    """A heading (text) that links lead to as `#name`."""
    return f'<h2 id="{name}">{escape(title)}</h2>'


def links(places: Mapping[str, str], more: str = "") -> str:
    """Links to sections, by name; `more` is HTML of further ones."""
    found = " ".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in places.items())
    return f"<nav>{found} {more}</nav>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `rows` hold HTML. A mean stays on one line with its interval, and the table scrolls where it must."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="tables"><table><tr>{top}</tr>{body}</table></div>'


def _cell(html: str) -> str:
    return f'<td class="figure">{html}</td>' if "\u00b1" in html and len(html) < 60 else f"<td>{html}</td>"


def values(head: Sequence[str], found: Mapping[str, object]) -> str:
    """A table of names with values of a program: settings, versions."""
    return table(head, [tuple(f"<code>{escape(str(each))}</code>" for each in pair) for pair in found.items()])


def note(html: str, kind: str) -> str:
    """A coloured box; `kind` is `good`, `warn` or `bad`."""
    return f'<div class="note {kind}">{html}</div>'


def notes(title: str, lines: Sequence[str], kind: str) -> str:
    """A note with a list (text). Nothing where there are no lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return note(f"<b>{escape(title)}</b><ul>{items}</ul>", kind)


def panel(title: str, html: str, level: int = 3) -> str:
    """One of the things that `wide` sets side by side."""
    return f"<div><h{level}>{escape(title)}</h{level}>{html}</div>"


def wide(panels: Iterable[str], kind: str = "wide") -> str:
    return f'<div class="{kind}">{"".join(panels)}</div>'


def folded(summary: str, html: str, *, opened: bool = False) -> str:
    """What is shown on a click on `summary` (HTML)."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{html}</details>"


def legend(names: Mapping[str, int]) -> str:
    """Names with the colours (0 to 7) that the charts give them."""
    items = "".join(f'<li><span class="swatch series{n}"></span>{escape(name)}</li>' for name, n in names.items())
    return f'<ul class="legend">{items}</ul>'
