"""A file that another process still writes: where it was read to, and whether it is still the same file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from runners.supervise.metrics.row import Row

Say = Callable[[str], None]
Rows = Callable[[BinaryIO, Say], Iterator[tuple[int, "Row | None"]]]
"""What each format is: from the file's place on, (where a record ends, its row or None) for every whole record.

It ends without a word where the next record is not whole yet, says what is damaged and goes on behind it, and raises
`Lost` where no further record can be found.
"""
TAIL = 1024


class Lost(Exception):
    """Nothing behind this damage can be read."""


class Growing:
    """The new rows of one file at each `poll`.

    A file is begun anew where it is no longer what was read: shorter, or other bytes at its former end. A file that was
    replaced by one with the same bytes up to there goes on, as it says the same.
    """

    def __init__(self, path: Path, rows: Rows, say: Say) -> None:
        self.path, self._rows, self._say = path, rows, say
        self._begin()

    def _begin(self) -> None:
        self._place = self._size = 0
        self._tail, self._lost = b"", False
        self._told: set[str] = set()

    def _same(self, file: BinaryIO, size: int) -> bool:
        file.seek(self._size - len(self._tail))
        return size >= self._size and file.read(len(self._tail)) == self._tail

    def poll(self) -> list[Row]:
        """Rows of the records that are whole since the last poll. A file that is gone has none, and begins anew."""
        found: list[Row] = []
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            self._begin()
            return found
        with file:
            size = os.fstat(file.fileno()).st_size
            if not self._same(file, size):
                self._begin()
            elif size == self._size:
                return found
            if not self._lost:
                file.seek(self._place)
                try:
                    for place, row in self._rows(file, self._tell):
                        self._place = place
                        found += [] if row is None else [row]
                except Lost as lost:
                    self._lost = True
                    self._tell(f"{lost}; what follows in this file is not read")
            self._size = size
            file.seek(max(0, size - TAIL))
            self._tail = file.read(size - file.tell())
        return found

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(f"{self.path}: {text}")
