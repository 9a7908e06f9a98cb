"""Progress that a person can follow: a live block on a terminal, plain lines elsewhere.

The block is the last thing on the screen and is painted over itself; what is said scrolls above it. The terminal is
never put into another mode (no hidden cursor, no second screen, no raw input): however a run ends, also by SIGKILL, it
is as before. A pipe, a file, a log of Slurm or CI, TERM=dumb and NO_COLOR get lines without escape codes, each flushed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from look.words import Words
from runners.cells import ambiguous_are_wide, clean, encodable
from runners.progress_block import FINE, Block, is_terminal, size_of
from runners.rate import Rate, clock_time

PAINT = 0.25
"""Least seconds between two paintings of the block; each second it is painted for the clock alone."""
LABELS = {
    "loss": "loss",
    "eval_loss": "evaluation loss",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "drift": "drift",
    "success": "success",
    "epoch": "epoch",
}
UNITS = {
    "step": ("step {step}", "step {step} of {total}"),
    "episode": ("episode {step}", "episode {step} of {total}"),
    "demonstration": ("demonstration {step}", "demonstration {step} of {total}"),
    "run": ("run {step}", "run {step} of {total}"),
    "pair": ("pair {step}", "pair {step} of {total}"),
}
"""What can be counted: without and with a total."""


class View:
    """Shows a run of stages, or one that has none; use it as a context. All methods may be called from any thread.

    `stages` is how many there will be, where that is known. `every` is the least time in seconds between two plain
    lines. A stream that is gone (a closed pipe, a lost terminal) ends the view, and not the run.
    """

    def __init__(
        self,
        title: str,
        *,
        stream: TextIO | None = None,
        every: float = 30.0,
        lang: str = "en",
        stages: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.every, self.stages, self.clock = title, every, stages, clock
        self.stream: TextIO = sys.stdout if stream is None else stream
        self.words = Words(lang)
        self.live = is_terminal(self.stream)
        self._wide = ambiguous_are_wide(lang)
        self.gone: OSError | None = None
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._rows = self._number = 0
        self._painted = float("-inf")
        self._dirty = self._reached = False
        self._clear("")

    def _clear(self, name: str, unit: str = "step") -> None:
        self._name, self._note, self._unit = name, "", unit
        self._step: int | None = None
        self._total: int | None = None
        self._values: dict[str, float] = {}
        self._rate = Rate()
        self._began = self._told = self.clock()

    def __enter__(self) -> View:
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.end()

    def stage(self, name: str, total: int | None = None, unit: str = "step") -> None:
        """A stage begins, and the one before has ended. `total`: its steps, or of what else `unit` says."""
        self.end()
        with self._lock:
            if not self._reached:
                self._number += 1
            self._clear(name, unit)
            self._total, self._reached, self._dirty = total, False, True

    def reach(self) -> None:
        """The next stage's turn has come, whether it has to run or not: it counts."""
        with self._lock:
            self._number, self._reached = self._number + 1, True

    def end(self) -> None:
        """The stage has ended: the block goes away, and its last figures stay as a line."""
        with self._lock:
            if self._step is not None or self._values:
                ended = self.words("ended after {time}", time=clock_time(self.clock() - self._began))
                self.say(f"    {self._name or self.title}: {self.words.joined([*self._figures(), ended])}")
            self._clear("")
            self._write(self._erased())

    def update(self, step: int | None = None, total: int | None = None, **values: float) -> None:
        """What is known by now; what is not named stays as it was. `success` is a share in [0, 1]."""
        with self._lock:
            if step is not None:
                self._step = step
                self._rate.add(self.clock(), step)
            self._total = self._total if total is None else total
            self._values |= values
            self._dirty = True

    def note(self, text: str) -> None:
        """What the running command said last: shown in the block, and in plain lines where nothing else is known."""
        lines = clean(text).strip().splitlines()
        with self._lock:
            self._note = lines[-1].strip() if lines else ""
            self._dirty = True

    def say(self, text: str) -> None:
        """Lines that stay, above the block."""
        with self._lock:
            self._write(self._erased() + clean(text) + "\n")
            if self.live and self._busy:
                self._paint()

    @property
    def _busy(self) -> bool:
        """Whether there is something to show: a stage, or figures of a run that has none."""
        return bool(self._name or self._step is not None or self._values)

    def _tick(self) -> None:
        while not self._over.wait(PAINT):
            with self._lock:
                now = self.clock()
                if not self._busy:
                    continue
                if self.live and (self._dirty or now - self._painted >= 1.0):
                    self._paint()
                elif not self.live and now - self._told >= self.every:
                    self._told = now
                    self._write(
                        f"    {self._head() or self.title}: {self.words.joined([*self._figures(), *self._times()])}\n"
                    )

    def _head(self) -> str:
        if not self.stages or not self._name:
            return self._name
        return self.words.joined(
            [self.words("stage {number} of {count}", number=self._number, count=self.stages), self._name]
        )

    def _counted(self) -> list[str]:
        if self._step is None:
            return []
        alone, of = UNITS[self._unit]
        if not self._total:
            return [self.words(alone, step=f"{self._step:,}")]
        told = self.words(of, step=f"{self._step:,}", total=f"{self._total:,}")
        return [f"{told} ({100 * self._step / self._total:.0f} %)"]

    def _measured(self) -> list[str]:
        found = []
        for name, value in self._values.items():
            label = self.words(LABELS[name]) if name in LABELS else name.replace("_", " ")
            found.append(f"{label} {100 * value:.1f} %" if name == "success" else f"{label} {value:.4g}")
        return found

    def _figures(self) -> list[str]:
        found = [*self._counted(), *self._measured()]
        return found or ([self._note] if self._note and not self.live else [])

    def _times(self) -> list[str]:
        now = self.clock()
        found = [self.words("{time} passed", time=clock_time(now - self._began))]
        if self._total and (self._step is None or self._step < self._total):
            left = self._rate.left(now, self._total)
            told = self.words("time left unknown") if left is None else self.words("{time} left", time=clock_time(left))
            found.append(told)
        return found

    def _paint(self) -> None:
        columns, rows = size_of(self.stream)
        known = (self._counted(), self._measured(), self._times(), self._note)
        block = Block(self.title, self._head(), self._step, self._total, *known)
        fine = not self._wide and encodable("".join(FINE), self.stream)
        lines = block.lines(columns - 1, max(1, rows - 1), fine=fine, wide=self._wide)
        self._write(
            (f"\r\x1b[{self._rows}A" if self._rows else "\r") + "".join(f"{e}\x1b[K\n" for e in lines) + "\x1b[J"
        )
        self._rows, self._painted, self._dirty = len(lines), self.clock(), False

    def _erased(self) -> str:
        """What takes the block away; the cursor is where it began."""
        rows, self._rows = self._rows, 0
        return f"\r\x1b[{rows}A\x1b[J" if rows else ""

    def _write(self, text: str) -> None:
        if self.gone is not None or not text:
            return
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except OSError as error:
            self.gone = error
