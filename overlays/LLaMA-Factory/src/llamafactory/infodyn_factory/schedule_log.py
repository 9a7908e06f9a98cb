"""The schedule's own log."""

import json
import os
from typing import Any

from ..infodyn.dynamic_scheduler import DynamicScheduler

LOG_NAME = "schedule.jsonl"


class ScheduleLog:
    """``schedule.jsonl`` in the output folder: a line for each choice with its reason, and for each task's evaluation.

    Args:
        folder: where it lies.
        writes: whether this rank does.
    """

    def __init__(self, folder: str, writes: bool) -> None:
        self.path, self.writes = os.path.join(folder, LOG_NAME), writes

    def append(self, entry: dict[str, Any]) -> None:
        self._write("a", [entry])

    def begin(self, scheduler: DynamicScheduler, chunk_steps: int) -> None:
        """Begin anew, with what the scheduler knows from a checkpoint, so that no line of a lost future stays."""
        entries: list[tuple[int, int, dict[str, Any]]] = []
        for task, found in scheduler.task_history.items():
            entries += [(entry.step, 0, {"task": task, "metrics": entry.to_dict()}) for entry in found]

        for choice in scheduler.choices:
            step = choice.number * chunk_steps
            entries.append((step, 1, {"step": step, "choice": choice.__dict__}))

        self._write("w", [entry for _, _, entry in sorted(entries, key=lambda each: each[:2])])

    def _write(self, mode: str, entries: list[dict[str, Any]]) -> None:
        if not self.writes:
            return

        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, mode, encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
