"""Pairs that are done, on disk while an analysis goes on: one that was stopped does not compute them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runners.digests import Digests
from runners.oid.estimate import Result, Value

FILE = "pairs-done.jsonl"
CODE = Path(__file__).resolve().parent
Pair = tuple[int, str, str, str]
"""Epoch, both experts, target."""


def key_of(probes: Path, made_with: Mapping[str, str]) -> str:
    """SHA-256 (hex) of all that a pair's numbers depend on: the probe's files, how they are analysed, code, versions.

    `made_with` has settings and versions; in how many processes the pairs are computed changes no number.
    """
    shown = {name: value for name, value in made_with.items() if name != "jobs"}
    digests = Digests()
    parts = [digests.of(probes), digests.of(CODE, ("*.css",)), json.dumps(shown, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Kept:
    """The results in `file` that were computed under `key`; others there are of another analysis, and dropped."""

    def __init__(self, file: Path, key: str) -> None:
        self.file, self.key = file, key
        self.known: dict[Pair, Result] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for line in lines if lines and lines[0] == key else []:
            result = _result(line)
            if result is not None:
                self.known[pair_of(result)] = result
        self._begun = bool(self.known)

    def add(self, result: Result) -> None:
        """Writes a result down."""
        mode = "a" if self._begun else "w"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open(mode, encoding="utf-8") as file:
            # The line before may have been cut short by a kill.
            file.write(f"{'' if self._begun else self.key}\n{json.dumps(asdict(result))}\n")
        self._begun = True

    def drop(self) -> None:
        """The analysis is written: nothing has to be gone on with."""
        self.file.unlink(missing_ok=True)


def pair_of(result: Result) -> Pair:
    return result.epoch, result.first, result.second, result.target


def _result(line: str) -> Result | None:
    """The result of a line; None for the key, an empty line, and one that a kill has cut short."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    values = {name: Value(**value) for name, value in found.pop("values").items()}
    return Result(**{**found, "explained": tuple(found["explained"])}, values=values)
