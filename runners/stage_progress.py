"""What a running stage says of itself: its metrics files, what else it counts, and the last line of its log."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runners.cells import clean
from runners.progress import View

SHOWN = ("loss", "eval_loss", "learning_rate", "drift", "success")
TAIL = 8192
"""Bytes of a log that are looked at for its last line: tqdm writes one line over and over."""


class Watched:
    """Tells `view` what is new at each call.

    What cannot be read is said once, and not looked at again: a stage does not end for it.
    """

    def __init__(
        self,
        view: View,
        folder: Path,
        log: Path,
        metrics: Sequence[str] = (),
        figures: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        # Late: the readers are for the engine's environment, a command that shows nothing may run in any.
        from runners.supervise.metrics.curve import Curve
        from runners.supervise.metrics.reader import Reader

        self.view, self.log, self.figures = view, log, figures
        self.reader, self.curve = Reader(folder, metrics, say=view.say) if metrics else None, Curve()

    def __call__(self) -> None:
        try:
            self._metrics()
            if self.figures is not None:
                known = dict(self.figures())
                step, total = known.pop("step", None), known.pop("total", None)
                self.view.update(None if step is None else int(step), None if total is None else int(total), **known)
        except Exception as error:
            self.reader = self.figures = None
            self.view.say(f"    its figures cannot be shown: {type(error).__name__}: {error}")
        self.view.note(last_line(self.log))

    def _metrics(self) -> None:
        rows = [] if self.reader is None else self.reader.poll()
        if not rows:
            return
        self.curve.add(rows)
        last = self.curve.last
        # starVLA has a rate for each group of parameters: the first stands for them.
        rates = [name for name in last if name.startswith("learning_rate/")]
        if rates:
            last.setdefault("learning_rate", last[rates[0]])
        total = last.get("total_steps")
        self.view.update(
            max(self.curve.series(name)[-1][0] for name in self.curve.names),
            None if total is None else int(total),
            **{name: last[name] for name in SHOWN if name in last},
        )


def last_line(log: Path) -> str:
    """The last line of a log that says anything, a progress bar as it stands; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(clean(text).splitlines()) if line.strip()), "")
