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
NAN_ROWS = {"loss": 3, "gradient_norm": 20}
"""So many values in a row that are not finite end a run. One bad batch may be skipped; a scaler of fp16 finds its scale
in some ten steps whose gradients are infinite, and takes none of them."""
LEVEL = 5
"""Rows at the beginning that say how high a loss may be."""
SHOWN = ("loss", "learning_rate", "drift", "success")


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

    `plateau`: how the loss is judged, or None; `on_plateau` is told of the first alarm, also one that earlier attempts
    had. `paused` says whether a checkpoint as late as a step is there: the command is ended for a plateau (or at
    `until` steps) only when it can go on from there.
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
        self.settings = plateau
        self.plateau: Watch | None = None
        self.verdict: Verdict | None = None
        self.bad: list[Row] = []
        """Rows in a row without a finite loss; where the gradients alone told that the run is lost, those."""
        self._unfit: dict[str, list[Row]] = {name: [] for name in NAN_ROWS}
        self._told = False
        self._looked = 0.0
        self.alive = time.monotonic()
        """When something new was last seen in the metrics."""
        # What earlier attempts left in these files is in the curve already.
        self.reader.poll()
        self._replay()

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
        lost = [self._lost(row) for row in rows]
        if rows:
            self.alive = time.monotonic()
            finite = {name: value for name, value in self.curve.last.items() if math.isfinite(value)}
            shown = {name: finite[name] for name in SHOWN if name in finite}
            self.view.update(self.step, self.total, **shown)
        if any(lost):
            return NAN
        if self.until is not None and self.step >= self.until and self.paused(self.until):
            return REACHED
        return self._flat()

    @property
    def step(self) -> int:
        """The last step that a loss is known of."""
        points = self.curve.series("loss")
        return points[-1][0] if points else 0

    def _lost(self, row: Row) -> bool:
        """Counts what is not finite in a row; whether it is enough, also where later rows of a poll are finite."""
        for name in NAN_ROWS.keys() & row.values.keys():
            self._unfit[name] = [] if math.isfinite(row.values[name]) else [*self._unfit[name], row]
        if len(self.bad) >= NAN_ROWS["loss"]:
            return True
        many = len(self._unfit["gradient_norm"]) >= NAN_ROWS["gradient_norm"]
        self.bad = self._unfit["gradient_norm"] if many else self._unfit["loss"]
        return len(self.bad) >= NAN_ROWS["loss"]

    def _replay(self) -> None:
        """Looks again at what earlier attempts told, row by row as they did: the same looks, and the same alarm.

        Those on rows that a resume has replaced are spent.
        """
        self._total()
        if self.settings is None:
            return
        self.plateau = Watch(self.settings, self.total)
        epochs = dict(self.curve.series("epoch"))
        for step, loss in self.curve.series("loss"):
            self._judge(step, loss, epochs.get(step))
        self.plateau.spend(self.curve.highest)

    def _total(self) -> bool:
        """Takes the total from the metrics where the command does not tell it, as with epochs; whether it is new."""
        told = self.curve.last.get("total_steps", math.nan)
        if self.total is not None or not math.isfinite(told) or told < 1:
            return False
        self.total = int(told) + self.offset
        return True

    def _judge(self, step: int, loss: float, epoch: float | None) -> None:
        if self.plateau is not None:
            self.plateau.add(step, loss, epoch)
            if self.verdict is None and self.plateau.verdict().plateau:
                self.verdict = self.plateau.verdict()

    def _take(self, rows: list[Row]) -> None:
        self.curve.add(rows)
        if self._total():
            self._replay()
            return
        for row in rows:
            if "loss" in row.values:
                self._judge(row.step, row.values["loss"], row.values.get("epoch"))

    def _flat(self) -> str:
        if self.verdict is None:
            return ""
        if not self._told and self.on_plateau is not None:
            self.on_plateau(self.verdict, self.curve)
        self._told = True
        return PLATEAU if self.stops and self.paused(self.verdict.step) else ""
