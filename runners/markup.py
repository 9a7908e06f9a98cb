"""What every page of this project is made of: one HTML file that loads nothing, with its style and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).resolve().parent / "report.css"


def document(title: str, body: str, style: str = "") -> str:
    """The page around `body` (HTML); `style` is CSS after that of every page."""
    common = STYLE.read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{common}{style}</style></head><body>
{body}
</body></html>
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `rows` hold HTML."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="tables"><table><tr>{top}</tr>{body}</table></div>'
