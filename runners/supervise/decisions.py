"""Everything that the supervisor decided, one JSON object a line, and what follows from it for the next attempt."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runners.supervise.masking import hidden_in

FILE, RESERVE = "decisions.jsonl", "reserve.bin"
KEPT = 64 << 10
"""Bytes that are kept free for decisions about a disk that is full."""


class Damaged(Exception):
    """A decision cannot be read; the message names file and line."""


@dataclass
class State:
    """What earlier decisions left behind; the file of decisions is its only source.

    `settings` are upstream's own keys, `environment` variables; both stand over what the command says.
    """

    attempts: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    """How often each remedy was taken, as `cause/remedy`."""
    planned: str = ""
    """A remedy that was begun, and has not been told the end of."""
    tried: dict[str, list[str]] = field(default_factory=dict)
    """Every value that a variable was given, in order."""
    factors: list[tuple[int, float]] = field(default_factory=list)
    """(step, factor): checkpoints up to the step were written before the rate was multiplied by the factor."""
    kept: list[str] = field(default_factory=list)
    """Checkpoints that were there before the first attempt: somebody else's, never removed."""
    adopts: bool = False
    """Whether those that were there are the run's own."""
    ended: str = ""
    """How the run ended, where it did."""

    def take(self, decision: Mapping[str, Any]) -> None:
        """Follows one decision."""
        kind = decision["kind"]
        if kind == "start":
            self.kept, self.adopts = list(decision["kept"]), bool(decision.get("adopts"))
        if kind == "attempt":
            self.attempts = int(decision["attempt"])
            self.ended = ""
        if kind == "plan":
            self.planned = f"{decision['cause']}/{decision['remedy']}"
        if kind in ("remedy", "refused"):
            self.planned = ""
        if kind == "remedy":
            if decision.get("further"):
                # What died later than before has not been tried in vain.
                self.used.clear()
            self.used[f"{decision['cause']}/{decision['remedy']}"] += 1
        if kind == "end":
            self.ended = str(decision["state"])
        if kind == "afresh":
            # A person asked for another round: budgets begin anew, what was learned stays.
            self.used.clear()
        self.settings |= decision.get("settings", {})
        for name, value in decision.get("environment", {}).items():
            self.environment[name] = value
            self.tried.setdefault(name, []).append(value)
        if "factor" in decision:
            self.factors.append((int(decision["from_step"]), float(decision["factor"])))

    def settle(self) -> None:
        """Counts a remedy that was planned when its supervisor was killed: whether it was carried out nobody knows."""
        if self.planned:
            self.used[self.planned] += 1
            self.planned = ""

    def factor(self, step: int) -> float:
        """What the rate in a checkpoint of `step` has still to be multiplied by."""
        product = 1.0
        for made, factor in self.factors:
            product *= factor if step <= made else 1.0
        return product


class Decisions:
    """`decisions.jsonl` of one run, appended to and never rewritten."""

    def __init__(self, folder: Path) -> None:
        self.path, self.reserve = folder / FILE, folder / RESERVE
        self.all: list[dict[str, Any]] = []
        self.state = State()
        if self.path.exists():
            self._read()
        self.state.settle()
        if not self.reserve.exists():
            with contextlib.suppress(OSError):  # without room for it there is none to keep
                self.reserve.write_bytes(bytes(KEPT))

    def add(self, kind: str, why: str, **more: Any) -> dict[str, Any]:
        """Writes a decision down, to the disk, before it is acted upon."""
        decision = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "kind": kind,
            "why": why,
            **more,
        }
        line = (json.dumps(hidden_in(decision), ensure_ascii=False) + "\n").encode()
        try:
            self._append(line)
        except OSError:
            # A full disk is what some decisions are about: the room that was kept for them.
            self.reserve.unlink(missing_ok=True)
            self._append(line)
        self.all.append(decision)
        self.state.take(decision)
        return decision

    def _append(self, line: bytes) -> None:
        """The whole line, on the disk, or none of it."""
        with self.path.open("ab", buffering=0) as out:
            before = out.tell()
            try:
                if out.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(out.fileno())
            except OSError:
                out.truncate(before)
                raise

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # A supervisor that was killed while it wrote had not acted upon that line yet.
            with self.path.open("rb+") as out:
                out.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                decision = json.loads(line)
                self.state.take(decision)
            except (ValueError, KeyError, TypeError) as error:
                raise Damaged(
                    f"{self.path}, line {number} is no decision ({error}): mend it, or move the folder away"
                ) from None
            self.all.append(decision)
