"""A small terminal: a program under a real pseudo terminal, and what stands on its screen afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.cells import get_character_cell_size

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|(\x1b.{0,3})|(.)", re.DOTALL)


class Screen:
    """`columns` wide and endless downwards: what scrolled away is still there. Escapes that it does not know raise."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.cells: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for numbers, code, unknown, letter in TOKEN.findall(text):
            assert not unknown, f"escape {unknown!r}"
            if letter:
                self._letter(letter)
            elif code == "A":
                self.row -= int(numbers)
                assert self.row >= 0, "painted above what was ever written"
            elif code == "K":
                del self.cells[self.row][self.column :]
            elif code == "J":
                del self.cells[self.row][self.column :]
                del self.cells[self.row + 1 :]
            else:
                assert code == "m", f"escape {code}"

    def _letter(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._down()
        else:
            width = get_character_cell_size(letter)
            assert width > 0, repr(letter)
            if self.column + width > self.columns:
                self.column = 0
                self._down()
            row = self.cells[self.row]
            row += [" "] * (self.column + width - len(row))
            row[self.column : self.column + width] = [letter] + [""] * (width - 1)
            self.column += width

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.cells):
            self.cells.append([])

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]


class Terminal:
    """`code` run by this Python with a pseudo terminal of `columns` for its input and output."""

    def __init__(self, code: str, columns: int, environment: Mapping[str, str] | None = None) -> None:
        kept = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI", "PYTHONPATH", "LC_ALL")
        }
        env = {
            **kept,
            "TERM": "xterm",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONIOENCODING": "utf-8",
            "LC_CTYPE": "C.UTF-8",
            **(environment or {}),
        }
        size = struct.pack("HHHH", 30, columns, 0, 0)
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execve(sys.executable, [sys.executable, "-c", code], env)
        self.text = ""
        self.code: int | None = None

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.descriptor)

    def until(self, true: Callable[[str], object], seconds: float = 20.0) -> str:
        """All that came, once `true` of it."""
        deadline = time.monotonic() + seconds
        while not true(self.text):
            assert time.monotonic() < deadline, self.text
            self._read()
        return self.text

    def end(self, seconds: float = 20.0) -> str:
        """All that came until the program ended; `code` is then how."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            assert time.monotonic() < deadline, self.text
            self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        self._read()
        os.close(self.descriptor)
        return self.text

    def _read(self) -> None:
        # A letter of several bytes may come in two reads.
        data = b""
        while select.select([self.descriptor], [], [], 0.05)[0]:
            try:
                part = os.read(self.descriptor, 65536)
            except OSError:
                break
            if not part:
                break
            data += part
        self.text += data.decode()
