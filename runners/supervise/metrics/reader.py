"""All metrics files of a run below one folder: what is new in them at each look."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from runners.supervise.metrics import events, jsonl, state, wandb_log
from runners.supervise.metrics.growing import Growing, Rows, Say
from runners.supervise.metrics.row import Row

FORMATS: tuple[tuple[str, Rows], ...] = (
    (r".*\.jsonl", jsonl.rows),
    (r"trainer_state\.json", state.rows),
    (r".*\.wandb", wandb_log.rows),
    (r".*tfevents.*", events.rows),
)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def format_of(name: str) -> Rows:
    """The format of a file, or of a pattern of files, by its name. Raises ValueError for an unknown one."""
    for pattern, rows in FORMATS:
        if re.fullmatch(pattern, os.path.basename(name)):
            return rows
    raise ValueError(
        f"{name}: no metrics file that is known here; write *.jsonl, trainer_state.json, *.wandb or *tfevents*"
    )


def in_time(path: Path) -> tuple[int, list[tuple[int, str]]]:
    """What files of one pattern are ordered by: the time in their names, then the names, numbers as numbers.

    wandb's folders have it as offline-run-20260102_030405-ID, TensorBoard's files in seconds. The files' own times say
    when they were last written or copied.
    """
    found = re.search(r"run-(\d{8})_(\d{6})-", path.parent.name) or re.search(r"tfevents\.(\d+)", path.name)
    parts = [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", str(path))]
    return (int("".join(found.groups())) if found else 0), parts


class Reader:
    """New rows of a run's metrics files at each `poll`.

    Args:
        output: the run's folder. It need not be there yet.
        patterns: of files, below `output` or absolute, `**` for folders; see FORMATS. What belongs to one pattern is
            one source: one process after the other wrote it.
        say: is told of damage, once for each place. A damaged record is passed over.

    Where several sources have the same metric, as wandb and metrics.jsonl often do, its rows are given once: from the
    source that has it first, the earlier pattern at the first poll. Another takes over where it gets ahead, or where
    it goes back to an earlier step, as it does after a resume.
    """

    def __init__(self, output: Path, patterns: Sequence[str], *, say: Say = _to_stderr) -> None:
        self._output, self._patterns, self._say = output, {pattern: format_of(pattern) for pattern in patterns}, say
        self._files: dict[str, dict[str, Growing]] = {pattern: {} for pattern in patterns}
        self._steps: dict[str, int] = {}
        self._owners: dict[str, tuple[str, int]] = {}

    def poll(self) -> list[Row]:
        """The rows that are whole since the last poll, a source after the other, each in the order of its writing."""
        return [row for pattern in self._patterns for row in self._once(pattern, self._new(pattern))]

    def _new(self, pattern: str) -> Iterator[Row]:
        known = self._files[pattern]
        # By what a path leads to: wandb's `latest-run` is a link to a folder that is there by its own name.
        places = glob.glob(os.path.join(glob.escape(str(self._output)), pattern), recursive=True)
        found = {os.path.realpath(path) for path in places}
        for path in sorted(map(Path, found - known.keys()), key=in_time):
            known[str(path)] = Growing(path, self._patterns[pattern], self._say)
        files = list(known.values())
        # The state of a later checkpoint repeats those before.
        for file in files[-1:] if self._patterns[pattern] is state.rows else files:
            yield from file.poll()

    def _once(self, source: str, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            back = row.step < self._steps.get(source, row.step)
            self._steps[source] = row.step
            values = {}
            for name, value in row.values.items():
                owner, last = self._owners.get(name, (source, row.step))
                if owner == source or row.step > last or back:
                    self._owners[name] = source, row.step
                    values[name] = value
            if values:
                yield replace(row, values=values, source=source)
