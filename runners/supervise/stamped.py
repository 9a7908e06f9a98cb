"""The whole log of a supervised run: every line with the time at which it came, over all attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from runners.supervise.masking import hidden

OWN = "graft: "
"""What the supervisor's own lines begin with, after the time."""
KEPT = 8 << 20
"""Bytes that are kept while they cannot be written."""
BAR_SECONDS = 1.0
"""A progress bar repaints itself many times a second: one state of it in so many seconds is kept."""
LONGEST = 64 << 10
"""Bytes of a line; a longer one is broken, at a blank where its last KiB has one, and says so."""
BROKEN = " [graft broke this long line here]"
LAST = 4 << 10
"""Bytes of a line without an end that `last` shows."""
PIECE = 1 << 20
"""Bytes that are read at once."""


def stamp(moment: float) -> str:
    """UTC with milliseconds, as ISO 8601 writes it."""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Stamped:
    """Appends to `path` what `feed` is given, a line at a time, as `TIME  text`, without secrets (masking.py).

    A line that ends in a carriage return is a state of a progress bar. The last of each second is kept, and always the
    last one before a whole line. `clock` tells the time of day, which may be set back; `ticks` seconds between bars.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self.clock, self.ticks = path, clock, ticks
        self.last = ""
        """What was said last, of a line or a bar."""
        self._rest = b""
        self._bar: tuple[float, str] | None = None
        self._barred = float("-inf")
        self.trouble: OSError | None = None
        """Why the log cannot be written now: a full disk. What it cannot take is kept, and no run ends of it."""
        self._pending = b""
        self._out = path.open("ab", buffering=0)

    def size(self) -> int:
        """Bytes said so far."""
        self._flush()
        return self.path.stat().st_size + len(self._pending)

    def lines_from(self, start: int) -> tuple[int, list[str]]:
        """The stamped lines from byte `start` on, and how many lines there are before."""
        self._flush()
        before, data = 0, b""
        with self.path.open("rb") as log:
            while block := log.read(min(1 << 20, start - log.tell())):
                before += block.count(b"\n")
            data = log.read()
            data += self._pending[max(0, start - log.tell()) :]
        return before, data.decode("utf-8", "replace").split("\n")[:-1]

    def note(self, text: str) -> None:
        """Writes lines of the supervisor itself."""
        for line in text.splitlines() or [""]:
            self._write(self.clock(), OWN + line)
        self._flush()

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the command's output, as they come."""
        pieces = (self._rest + data).replace(b"\r\n", b"\n")
        # A carriage return at the very end may be half of a line's end.
        held = b"\r" if pieces.endswith(b"\r") else b""
        pieces = pieces[: len(pieces) - len(held)]
        now = self.clock()
        *whole, self._rest = pieces.split(b"\n")
        for line in whole:
            *states, text = line.split(b"\r")
            self._states(states, now)
            self._settle()
            self._write(now, self._short(text, now).decode("utf-8", "replace"))
        *states, rest = self._rest.split(b"\r")
        self._states(states, now)
        if len(rest) > LONGEST:
            self._settle()
            rest = self._short(rest, now)
        if rest.strip():
            self.last = hidden(rest[-LAST:].decode("utf-8", "replace"))
        self._rest = rest + held
        self._flush()

    def feed_from(self, path: Path) -> None:
        """The same from a file, of any length."""
        with path.open("rb") as file:
            while data := file.read(PIECE):
                self.feed(data)

    def end(self) -> None:
        """Writes what is left without a line's end."""
        rest, self._rest = self._rest.rstrip(b"\r"), b""
        self._settle()
        if rest:
            self._write(self.clock(), rest.decode("utf-8", "replace"))
        self._flush()

    def close(self) -> None:
        self.end()
        self._out.close()

    def _short(self, line: bytes, now: float) -> bytes:
        """Writes the beginning of a line that is too long, and returns its end."""
        at = 0
        while len(line) - at > LONGEST:
            cut = line.rfind(b" ", at + LONGEST - 1024, at + LONGEST) + 1 or at + LONGEST
            while cut > at + 1 and line[cut] & 0xC0 == 0x80:  # not within a letter
                cut -= 1
            self._write(now, line[at:cut].decode("utf-8", "replace") + BROKEN)
            at = cut
        return line[at:]

    def _states(self, states: list[bytes], now: float) -> None:
        last = b""
        for state in states:
            if not state.strip():
                continue
            self._bar = (now, state[-LONGEST:].decode("utf-8", "replace"))
            last = state
            if self.ticks() - self._barred >= BAR_SECONDS:
                self._settle()
                self._barred = self.ticks()
        if last:
            self.last = hidden(last[-LAST:].decode("utf-8", "replace"))

    def _settle(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            self._write(*bar)

    def _write(self, moment: float, text: str) -> None:
        shown = hidden(text)
        if shown.strip():
            self.last = shown
        self._pending += f"{stamp(moment)}  {shown}\n".encode("utf-8", "replace")

    def _flush(self) -> None:
        while self._pending:
            try:
                written = self._out.write(self._pending[: 1 << 20])
            except OSError as error:
                self.trouble, self._pending = error, self._pending[-KEPT:]
                return
            self._pending = self._pending[written:]
        self.trouble = None
