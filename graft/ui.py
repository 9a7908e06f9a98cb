"""What a person sees: colours on a terminal only, one progress line for what takes over a second."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from typing import TextIO

_COLOURS = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1", "add": "32", "del": "31", "hunk": "36"}
_INTERVAL = 5.0
"""Seconds for which a stage's next line has to wait in a log."""

_COUNT = re.compile(r":\s+\d")  # as in `Receiving objects:  12% (3/25)`

_STATES = {
    "applied": "good",
    "already applied": "good",
    "unapplied": "dim",
    "absent": "dim",
    "unreachable": "warn",
    "changed": "warn",
    "partly applied": "warn",
    "drifted": "warn",
    "failed": "bad",
    "lost": "bad",
    "ambiguous": "bad",
}


class Screen:
    """Prints for people; with ``json`` it prints nothing but progress, which goes to standard error."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out if out is not None else sys.stdout
        self.err = err if err is not None else sys.stderr
        self.quiet = quiet
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter must not end the command
                stream.reconfigure(errors="backslashreplace")
        self._live = self.err.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._shown = 0
        self._text = self._last = ""
        self._logged: dict[str, float] = {}
        self._timer: threading.Timer | None = None
        self._guard = threading.Lock()

    def paint(self, text: str, kind: str) -> str:
        """``text`` in a colour, where colours are wanted: on a terminal without ``NO_COLOR``."""
        plain = not self.out.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain else f"\033[{_COLOURS[kind]}m{text}\033[0m"

    def state(self, state: str) -> str:
        return self.paint(state, _STATES.get(state, "warn"))

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(text, file=self.out)

    def aside(self, text: str) -> None:
        """Words beside output that is made to be read by a program."""
        if not self.quiet:
            print(text, file=self.err)

    def progress(self, text: str) -> None:
        """What goes on now; shown once a command has run for a second.

        On a terminal it is one line that changes; in a log a line for each stage, and one more every five seconds.
        """
        with self._guard:
            self._text = text
            late = time.monotonic() - self._began >= 1.0
            if not late and self._timer is None:
                self._timer = threading.Timer(1.0, self._show)
                self._timer.daemon = True
                self._timer.start()
        if late:
            self._show()

    def _show(self) -> None:
        with self._guard:
            if not self._text or self._text == self._last:
                return
            if not self._live:
                stage, now = _COUNT.split(self._text)[0], time.monotonic()
                if now - self._logged.get(stage, -_INTERVAL) < _INTERVAL:
                    return
                self._logged[stage] = now
            self._last = self._text
            if not self._live:
                self.err.write(self._text + "\n")
            else:
                width = max(os.get_terminal_size(self.err.fileno()).columns - 1, 20)
                self.err.write("\r" + self._text[:width].ljust(self._shown))
                self._shown = len(self._text[:width])
            self.err.flush()

    def settle(self) -> None:
        """Takes the progress line away; nothing is shown any more."""
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
            self._text = ""
            if self._shown:
                self.err.write("\r" + " " * self._shown + "\r")
                self.err.flush()
                self._shown = 0

    def diff(self, text: str) -> None:
        for line in text.split("\n")[:-1]:
            if line.startswith(("diff ", "+++", "---")):
                self.say(self.paint(line, "bold"))
            elif line.startswith("@@"):
                self.say(self.paint(line, "hunk"))
            elif line.startswith("+"):
                self.say(self.paint(line, "add"))
            elif line.startswith("-"):
                self.say(self.paint(line, "del"))
            else:
                self.say(line)
