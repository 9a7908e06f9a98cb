"""Which task to train next, decided from what evaluations have shown.

Equal histories, seeds and earlier choices give equal choices, on every rank and after every resume.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .schedule_config import ScheduleConfig
from .task_metrics import TaskHistory, TaskMetrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """One decision. ``kind`` is cold, floor, review, score, cycle or end; ``reason`` says it in a sentence."""

    number: int
    previous: str | None
    task: str
    kind: str
    reason: str
    grokked: tuple[str, ...]


class DynamicScheduler:
    """Chooses the next task; see ``ScheduleConfig`` for what the words mean.

    A task is grokked while its last ``window`` evaluations all lie above the thresholds of PI and accuracy and the
    accuracy is stable over them; one that falls again is not grokked any more. In this order:

    1. all are grokked: the schedule ends (the current task stays, ``finished`` is true) or cycles;
    2. tasks that were never chosen, in the seed's order (cold start);
    3. the floor: a task that is not grokked and has waited for ``max_wait`` choices, the longest wait first;
    4. the current task is grokked, and was not itself a review: another grokked one is reviewed, that of the lowest PI;
    5. of those not grokked the one that ranks first by ``policy``.

    Ties are broken by the seed and the choice's number.

    Args:
        config: thresholds and policy.
        task_history: evaluations by task. The same object is read at every choice; ``load_state_dict`` fills it.
    """

    def __init__(self, config: ScheduleConfig, task_history: TaskHistory) -> None:
        unknown = sorted(set(task_history) - set(config.tasks))
        if unknown:
            raise ValueError(f"the history has tasks that the schedule has not: {', '.join(unknown)}.")
        self.config = config
        self.task_history = task_history
        self.choices: list[Choice] = []
        for task in config.tasks:
            task_history.setdefault(task, [])

    def get_all_tasks(self) -> list[str]:
        return list(self.config.tasks)

    @property
    def finished(self) -> bool:
        """Whether all tasks are grokked and the schedule is to end then."""
        return self.config.when_all_grokked == "end" and all(map(self.is_grokked, self.config.tasks))

    def is_grokked(self, task: str) -> bool:
        recent = self.task_history[task][-self.config.window :]
        accuracies = [entry.avg_accuracy for entry in recent]
        return (
            len(recent) == self.config.window
            and all(entry.avg_pi > self.config.pi_threshold for entry in recent)
            and min(accuracies) >= self.config.accuracy_threshold
            and max(accuracies) - min(accuracies) <= self.config.stability
        )

    def select_next_task(self, current_task: str | None) -> str:
        """The task to train next.

        Args:
            current_task: what was trained until now; None before the first.

        Raises:
            ValueError: a task that the schedule does not have.
        """
        if current_task is not None and current_task not in self.config.tasks:
            raise ValueError(f"{current_task!r} is not one of the tasks {', '.join(self.config.tasks)}.")
        grokked = tuple(task for task in self.config.tasks if self.is_grokked(task))
        task, kind, reason = self._decide(current_task, grokked)
        choice = Choice(len(self.choices), current_task, task, kind, reason, grokked)
        self.choices.append(choice)
        logger.info("choice %d: %s (%s): %s", choice.number, task, kind, reason)
        return task

    def _decide(self, current: str | None, grokked: Sequence[str]) -> tuple[str, str, str]:
        tasks = self.config.tasks
        learning = [task for task in tasks if task not in grokked]
        if not learning:
            if self.config.when_all_grokked == "end":
                return current or tasks[0], "end", "all tasks are grokked: the schedule ends"
            after = 0 if current is None else (tasks.index(current) + 1) % len(tasks)
            return tasks[after], "cycle", "all tasks are grokked: on to the next in order"

        chosen = {choice.task for choice in self.choices}
        cold = [task for task in self._shuffled("cold start") if task in learning and task not in chosen]
        if cold:
            return cold[0], "cold", f"never trained; {len(cold) - 1} more such tasks"

        waits = {task: self._wait(task) for task in tasks}
        due = [task for task in learning if waits[task] >= self.config.patience]
        order = self._shuffled(str(len(self.choices)))
        if due:
            first = min(due, key=lambda task: (-waits[task], order.index(task)))
            return first, "floor", f"not trained for {waits[first]} choices, the floor is {self.config.patience}"

        hands_over = current in grokked and self.config.review and self.choices[-1].kind != "review"
        others = [task for task in grokked if task != current]
        if hands_over and others:
            weakest = min(others, key=lambda task: (self.task_history[task][-1].avg_pi, order.index(task)))
            pi = self.task_history[weakest][-1].avg_pi
            return (
                weakest,
                "review",
                f"{current} is grokked; of the other grokked tasks this has the lowest PI, {pi:.4f}",
            )

        scores = {task: self._score(task) for task in learning}
        best = min(learning, key=lambda task: (-scores[task], order.index(task)))
        ranked = ", ".join(f"{task} {scores[task]:.4f}" for task in learning)
        left = f"{current} is grokked; " if current in grokked else ""
        return best, "score", f"{left}first by {self.config.policy}: {ranked}"

    def _wait(self, task: str) -> int:
        """Choices made since the one that chose ``task``."""
        last = max((choice.number for choice in self.choices if choice.task == task), default=-1)
        return len(self.choices) - 1 - last

    def _score(self, task: str) -> float:
        """Rank of a task that is not grokked; one that was never evaluated comes first."""
        history = self.task_history[task]
        return self._rank(history[-1]) if history else math.inf

    def _rank(self, last: TaskMetrics) -> float:
        accuracy, pi = self.config.accuracy_weight, self.config.pi_weight
        if self.config.policy == "progress":
            return accuracy * abs(last.delta_accuracy) + pi * abs(last.delta_pi)
        delta = accuracy * last.delta_accuracy + pi * last.delta_pi
        if self.config.policy == "learning":
            return delta
        return accuracy * (1 - last.avg_accuracy) + pi * (1 - last.avg_pi) - delta

    def _shuffled(self, purpose: str) -> list[str]:
        # A text seeds Random by its SHA-512, so the order does not depend on the process or its hash seed.
        return random.Random(f"{self.config.seed}/{purpose}").sample(self.config.tasks, len(self.config.tasks))

    def state_dict(self) -> dict[str, Any]:
        """Choices and history in plain JSON types."""
        return {
            "tasks": list(self.config.tasks),
            "seed": self.config.seed,
            "choices": [asdict(choice) | {"grokked": list(choice.grokked)} for choice in self.choices],
            "history": {task: [entry.to_dict() for entry in self.task_history[task]] for task in self.config.tasks},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken; the history object is filled in place.

        Raises:
            ValueError: the state is of other tasks or of another seed, is not whole, or holds what is not finite.
        """
        missing = [name for name in ("tasks", "seed", "choices", "history") if name not in state]
        if missing:
            raise ValueError(f"the saved schedule has no {', '.join(missing)}: resume from a checkpoint that is whole.")
        for name, own in (("tasks", list(self.config.tasks)), ("seed", self.config.seed)):
            if state.get(name) != own:
                raise ValueError(
                    f"the saved schedule has {name} {state.get(name)!r}, this run has {own!r}: resume with the same "
                    "ones, or start anew."
                )
        choices = [Choice(**{**choice, "grokked": tuple(choice["grokked"])}) for choice in state["choices"]]
        for task in self.config.tasks:
            self.task_history[task][:] = [TaskMetrics.from_dict(entry) for entry in state["history"][task]]
        self.choices[:] = choices
