"""What a running command says of itself: its curve, and whether there is a reason to end it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from runners.supervise.command import Command
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.reader import Reader
from runners.supervise.metrics.row import Row
from runners.supervise.plateau import Settings, Verdict, Watch

NAN, PLATEAU, REACHED = "the loss is no number", "the loss has stopped falling", "the trial's steps are done"
EVERY = 1.0
"""Seconds between two looks at the metrics."""
NAN_ROWS = 3
"""So many rows in a row without a finite loss end a run: one bad batch may be skipped by an upstream's own scaler."""
LEVEL = 5
"""Rows at the beginning that say how high a loss may be."""
SHOWN = ("loss", "learning_rate", "drift", "success")
JUDGED = ("loss", "gradient_norm")


def history(decisions: Sequence[Mapping[str, Any]]) -> Curve:
    """The curve of all attempts so far. Some upstreams write to another folder and count from 0 when they go on."""
    curve, seen = Curve(), set()
    for item in decisions:
        if item["kind"] != "attempt" or item["output"] in seen:
            continue
        seen.add(item["output"])
        curve.add(moved(Reader(Path(item["output"]), item["metrics"]).poll(), item["offset"]))
    return curve


def moved(rows: Sequence[Row], offset: int) -> list[Row]:
    """The rows with steps counted from the whole run's beginning."""
    return [replace(row, step=row.step + offset) for row in rows] if offset else list(rows)


def lost_from(curve: Curve, bad: int) -> int:
    """The step from which on a loss that was no number at step `bad` was lost: weights saved later are no use.

    Before the numbers end they grow: each step back from `bad` whose loss was above all of the first rows counts.
    """
    points = [(step, loss) for step, loss in curve.series("loss") if step < bad]
    first = [loss for _, loss in points[:LEVEL] if math.isfinite(loss)]
    lost = bad
    for step, loss in reversed(points):
        if first and loss <= max(first):
            break
        lost = step
    return lost


class Shows(Protocol):
    def say(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...

    def update(self, step: int | None = None, total: int | None = None, **values: float) -> None: ...


class Watcher:
    """Asked by `child.run` a few times a second; returns a reason to end the command, or the empty string.

    `plateau`: how the loss is judged, or None. `paused` says whether a checkpoint as late as a step is there: the
    command is ended for a plateau (or at `until` steps) only when it can go on from there.
    """

    def __init__(
        self,
        command: Command,
        curve: Curve,
        view: Shows,
        paused: Callable[[int], bool],
        *,
        plateau: Settings | None = None,
        stops: bool = False,
        until: int | None = None,
        on_plateau: Callable[[Verdict, Curve], None] | None = None,
        said: Callable[[], str] = str,
    ) -> None:
        self.said = said
        self.view, self.paused, self.stops, self.until, self.on_plateau = view, paused, stops, until, on_plateau
        steps = command.get("steps")
        self.offset = command.offset
        self.total = int(float(steps)) + self.offset if steps and float(steps) > 0 else None
        self.reader, self.curve = Reader(command.output, command.metrics, say=view.say), curve
        self.plateau = Watch(plateau, self.total) if plateau is not None else None
        self.verdict: Verdict | None = None
        self.bad: list[Row] = []
        self._looked = 0.0
        # What earlier attempts left in these files is in the curve already.
        self.reader.poll()
        if self.plateau is not None:
            epochs = dict(curve.series("epoch"))
            for step, loss in curve.series("loss"):
                self.plateau.add(step, loss, epochs.get(step))

    def __call__(self) -> str:
        now = time.monotonic()
        if now - self._looked < EVERY:
            return ""
        self._looked = now
        self.view.note(self.said())
        return self.look()

    def look(self) -> str:
        """Reads what is new now."""
        rows = moved(self.reader.poll(), self.offset)
        self._take(rows)
        for row in rows:
            judged = [row.values[name] for name in JUDGED if name in row.values]
            if judged:
                self.bad = [*self.bad, row] if not all(map(math.isfinite, judged)) else []
        if rows:
            finite = {name: value for name, value in self.curve.last.items() if math.isfinite(value)}
            shown = {name: finite[name] for name in SHOWN if name in finite}
            total = self.total or (int(finite["total_steps"]) if "total_steps" in finite else None)
            self.view.update(self.step, total, **shown)
        if len(self.bad) >= NAN_ROWS:
            return NAN
        if self.until is not None and self.step >= self.until and self.paused(self.until):
            return REACHED
        return self._flat(bool(rows))

    @property
    def step(self) -> int:
        """The last step that a loss is known of."""
        points = self.curve.series("loss")
        return points[-1][0] if points else 0

    def _take(self, rows: list[Row]) -> None:
        self.curve.add(rows)
        if self.plateau is not None:
            for row in rows:
                if "loss" in row.values:
                    self.plateau.add(row.step, row.values["loss"], row.values.get("epoch"))

    def _flat(self, news: bool) -> str:
        if self.plateau is None:
            return ""
        if self.verdict is None and news:
            verdict = self.plateau.verdict()
            if verdict.plateau:
                self.verdict = verdict
                if self.on_plateau is not None:
                    self.on_plateau(verdict, self.curve)
        if self.verdict is not None and self.stops and self.paused(self.verdict.step):
            return PLATEAU
        return ""
