"""Progress that a person can follow: a live block on a terminal, plain lines elsewhere.

The block is the last thing on the screen and is painted over itself; what is said scrolls above it. The terminal is
never put into another mode (no hidden cursor, no second screen, no raw input): however a run ends, also by SIGKILL, it
is as before. A pipe, a file, a log of Slurm or CI, TERM=dumb and NO_COLOR get lines without escape codes, each flushed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from look.words import Words

PAINT = 0.25
"""Least seconds between two paintings of the block; each second it is painted for the clock alone."""
SAMPLES = 30
"""Last changes of the step from which the time left is told: a pause long ago (an evaluation) is forgotten."""
PLAIN = ("NO_COLOR", "CI")
"""Variables that, when set, ask for plain lines on a terminal too."""
LABELS = {
    "loss": "loss",
    "eval_loss": "evaluation loss",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "drift": "drift",
    "success": "success",
    "epoch": "epoch",
}
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")


class Rate:
    """Steps a second over the last SAMPLES changes of the step."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def add(self, now: float, step: int) -> None:
        if self.seen and step < self.seen[-1][1]:
            self.seen.clear()  # a run that went on from a checkpoint
        if not self.seen or step > self.seen[-1][1]:
            self.seen.append((now, step))

    def left(self, now: float, total: int) -> float | None:
        """Seconds until `total`; None before two steps were seen."""
        if len(self.seen) < 2:
            return None
        (first, low), (last, high) = self.seen[0], self.seen[-1]
        return max(0.0, (total - high) * (last - first) / (high - low) - (now - last))


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
        wants = is_terminal(self.stream)
        self.live = wants and importlib.util.find_spec("rich") is not None
        self.gone: OSError | None = None
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._rows = self._number = 0
        self._painted = float("-inf")
        self._dirty = self._reached = False
        self._clear("")
        if wants and not self.live:
            self.say(self.words("no live view: rich is not installed (pip install -r requirements.txt)"))

    def _clear(self, name: str) -> None:
        self._name, self._note = name, ""
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

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins, and the one before has ended. `total`: its steps."""
        self.end()
        with self._lock:
            if not self._reached:
                self._number += 1
            self._clear(name)
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

    def _figures(self) -> list[str]:
        found = []
        if self._step is not None and self._total:
            share = f"{100 * self._step / self._total:.0f} %"
            found.append(self.words("step {step} of {total}", step=f"{self._step:,}", total=f"{self._total:,}"))
            found[-1] += f" ({share})"
        elif self._step is not None:
            found.append(self.words("step {step}", step=f"{self._step:,}"))
        for name, value in self._values.items():
            label = self.words(LABELS[name]) if name in LABELS else name.replace("_", " ")
            found.append(f"{label} {100 * value:.1f} %" if name == "success" else f"{label} {value:.4g}")
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
        lines = self._block(columns - 1)[: max(1, rows - 1)]
        self._write(
            (f"\r\x1b[{self._rows}A" if self._rows else "\r") + "".join(f"{e}\x1b[K\n" for e in lines) + "\x1b[J"
        )
        self._rows, self._painted, self._dirty = len(lines), self.clock(), False

    def _erased(self) -> str:
        """What takes the block away; the cursor is where it began."""
        rows, self._rows = self._rows, 0
        return f"\r\x1b[{rows}A\x1b[J" if rows else ""

    def _block(self, width: int) -> list[str]:
        """The block's lines, none wider than `width` cells, with their colours."""
        fine = encodable("━─…·›", self.stream)
        dot, arrow = (" · ", "› ") if fine else (", ", "> ")
        head = dot.join(part for part in (self.title, self._head()) if part)
        lines = [f"\x1b[1m{cut(head, width, fine)}\x1b[0m"]
        if self._step is not None and self._total:
            length = min(width, 60)
            full = min(length, length * self._step // self._total)
            done, rest = ("━" * full, "─" * (length - full)) if fine else ("#" * full, "." * (length - full))
            lines.append(f"\x1b[32m{done}\x1b[0;2m{rest}\x1b[0m")
        lines += [cut(line, width, fine) for line in wrapped([*self._figures(), *self._times()], dot, width)]
        if self._note:
            lines.append(f"\x1b[2m{cut(arrow + self._note, width, fine)}\x1b[0m")
        return lines

    def _write(self, text: str) -> None:
        if self.gone is not None or not text:
            return
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except OSError as error:
            self.gone = error


def is_terminal(stream: TextIO) -> bool:
    """Whether a block can be painted over itself there."""
    if any(os.environ.get(name) for name in PLAIN) or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    return stream.isatty()


def size_of(stream: TextIO) -> tuple[int, int]:
    """Columns and rows; a terminal that does not know gets 80 and 24."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        columns = rows = 0
    return max(columns or 80, 8), max(rows or 24, 2)


def encodable(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """`text` without escape sequences and control characters, carriage returns as a terminal would leave them."""
    shown = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return "\n".join(ESCAPES.sub("", line) for line in shown).expandtabs(4)


def cut(text: str, width: int, fine: bool = True) -> str:
    """`text` in at most `width` cells; a Chinese character takes two."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    end = "…" if fine else "~"
    return set_cell_size(text, max(0, width - 1)).rstrip() + end


def wrapped(fields: list[str], between: str, width: int) -> list[str]:
    """`fields` on as few lines as they fit on, none of them broken."""
    from rich.cells import cell_len

    lines: list[str] = []
    for field in fields:
        if lines and cell_len(lines[-1] + between + field) <= width:
            lines[-1] += between + field
        else:
            lines.append(field)
    return lines


def clock_time(seconds: float) -> str:
    """`m:ss`, `h:mm:ss`, and from a day on `2 d 3:04:05`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    short = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days} d {short}" if days else short
