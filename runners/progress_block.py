"""The block of a live view: what stands in it, in how many lines and cells, and where one can be painted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from runners.cells import cells, cut, wrapped

PLAIN = ("NO_COLOR", "CI")
"""Variables that, when set, ask for plain lines on a terminal too."""
FINE, ROUGH = ("━", "─", " · ", "› ", "…"), ("#", ".", ", ", "> ", "~")
"""Done and rest of the bar, separator, head of the log's line, end of what was cut."""
LEAST_TITLE = 6
"""Cells below which the run's title is left out beside the stage."""


@dataclass(frozen=True)
class Block:
    """What is known of a run: its title, the stage, step and total, and figures in words."""

    title: str
    stage: str
    step: int | None
    total: int | None
    counted: Sequence[str]
    measured: Sequence[str]
    times: Sequence[str]
    """Time passed, and time left where a total is known."""
    note: str

    def lines(self, width: int, rows: int, *, fine: bool = True, wide: bool = False) -> list[str]:
        """The lines with their colours, at most `rows` and none wider than `width` cells.

        Without `fine` in ASCII, but for the words themselves; `wide`: characters of ambiguous width take two cells.
        Where there are few rows the log's line goes first, then what was measured, then the bar: stage, step and time
        left stay.
        """
        done, rest, dot, arrow, end = FINE if fine else ROUGH
        bar = []
        if self.step is not None and self.total:
            length = min(width, 60)
            full = min(length, length * self.step // self.total)
            bar = [f"\x1b[32m{done * full}\x1b[0;2m{rest * (length - full)}\x1b[0m"]
        note = [f"\x1b[2m{cut(arrow + self.note, width, end, wide)}\x1b[0m"] if self.note else []

        def told(fields: list[str]) -> list[str]:
            return [cut(line, width, end, wide) for line in wrapped(fields, dot, width, wide)]

        everything = told([*self.counted, *self.measured, *self.times])
        needed = told([*self.counted, *reversed(self.times)])
        choices = ([*bar, *everything, *note], [*bar, *everything], [*bar, *needed], needed)
        below = next((lines for lines in choices if len(lines) < rows), needed)
        return [f"\x1b[1m{self._head(width, dot, end, wide)}\x1b[0m", *below][:rows]

    def _head(self, width: int, dot: str, end: str, wide: bool) -> str:
        """The stage, and the run's title as far as it fits beside it."""
        head = cut(self.stage or self.title, width, end, wide)
        room = width - cells(head + dot, wide)
        if not self.stage or not self.title or room < min(LEAST_TITLE, cells(self.title, wide)):
            return head
        return head + dot + cut(self.title, room, end, wide)


def is_terminal(stream: TextIO) -> bool:
    """Whether a block can be painted over itself there."""
    if any(os.environ.get(name) for name in PLAIN) or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    return stream.isatty()


def size_of(stream: TextIO) -> tuple[int, int]:
    """Columns and rows; a terminal that does not know gets 80 and 24."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        columns = rows = 0
    return max(columns or 80, 8), max(rows or 24, 2)
