"""The schedule's own log, and tensors as JSON holds them."""

import json
import os
from typing import Any

import torch

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


def as_lists(found: Any) -> Any:
    """Tensors as lists, which JSON keeps exactly."""
    if isinstance(found, dict):
        return {name: as_lists(value) for name, value in found.items()}

    return [as_lists(value) for value in found] if isinstance(found, list) else _plain(found)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def as_tensors(found: Any) -> Any:
    """The inverse, where the innermost lists were float64 vectors."""
    if isinstance(found, dict):
        return {name: as_tensors(value) for name, value in found.items()}

    if found and isinstance(found[0], list):
        return [as_tensors(value) for value in found]

    return torch.tensor(found, dtype=torch.float64)
