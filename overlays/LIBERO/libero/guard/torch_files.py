"""Unpicklers that know a short list of names, and the parts of torch's file format."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch before 1.6 wrote


class Refused(pickle.UnpicklingError):
    """A file that names something which it has no reason to name; nothing of it was run."""


class Listed(pickle.Unpickler):
    """Knows the names in ``names`` and refuses all others.

    Attributes:
        names: (module, name) to what stands for it.
        holds: what a file of this kind holds, for the message.
    """

    names: Mapping[tuple[str, str], Any] = {}
    holds = "plain data"

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise Refused(
                f"it names {module}.{name}, and {self.holds} needs no such thing: that may run code when it is loaded. "
                "Take the file from a source that you trust, or save it again as plain data"
            ) from None


def latin1(text: str, encoding: str) -> bytes:
    """``_codecs.encode`` for the one use that pickles of protocol 2 make of it: bytes written as text."""
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused(f"bytes are encoded as {encoding!r}, not as latin1")
    return text.encode("latin1")


def is_zip(file: BinaryIO) -> bool:
    """Whether the file has torch's zip format; leaves the position at the start."""
    found = zipfile.is_zipfile(file)
    file.seek(0)
    return found


def members(file: BinaryIO) -> list[str]:
    """The names in a zip file; leaves the position at the start."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    file.seek(0)
    return names
