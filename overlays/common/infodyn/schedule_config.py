"""Thresholds and policy of a dynamic schedule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

POLICIES = ("progress", "learning", "need")
ENDS = ("cycle", "end")


@dataclass(frozen=True)
class ScheduleConfig:
    """What a ``DynamicScheduler`` decides by.

    Attributes:
        tasks: their names, in the order that ``cycle`` follows.
        seed: of ties and of the cold start's order.
        pi_threshold: a grokked task's PI lies above it. With alpha 1 and gamma 0.5 a model whose loss equals its
            entropy and whose gradient has vanished has exp(-0.5) = 0.61. The gradient's size is the model's own, so
            is what can be reached: read it off the evaluations of a run.
        accuracy_threshold: a grokked task's accuracy is at least this.
        window: evaluations in a row over which both must hold.
        stability: the accuracy's range (largest minus smallest) over the window is at most this.
        policy: how tasks that are not grokked are ranked, with d for the weighted sum of delta accuracy and delta PI:
            ``progress`` by the same sum of absolute values, so that those that learn fastest and those that forget
            fastest come first (teacher-student curriculum learning, Matiisen et al. 2017); ``learning`` by d; ``need``
            by what is missing to an accuracy and a PI of one, minus d.
        accuracy_weight: of delta accuracy in the ranking.
        pi_weight: of delta PI in the ranking.
        max_wait: choices after which a task that is not grokked is due whatever its rank; None: twice the tasks.
        review: whether a grokked current task hands over to another grokked one, for one choice, before the next task
            that is not.
        when_all_grokked: ``end`` the schedule or ``cycle`` through the tasks.
    """

    tasks: tuple[str, ...]
    seed: int = 42
    pi_threshold: float = 0.5
    accuracy_threshold: float = 0.9
    window: int = 3
    stability: float = 0.02
    policy: str = "progress"
    accuracy_weight: float = 1.0
    pi_weight: float = 1.0
    max_wait: int | None = None
    review: bool = True
    when_all_grokked: str = "cycle"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a schedule needs tasks of different names, got {list(self.tasks)}.")
        for name in ("pi_threshold", "accuracy_threshold", "stability"):
            self._number(name, 0, 1)
        for name in ("accuracy_weight", "pi_weight"):
            self._number(name, 0, math.inf)
        if self.accuracy_weight == self.pi_weight == 0:
            raise ValueError("accuracy_weight and pi_weight are both 0: nothing would rank the tasks.")
        for name, least in (("seed", 0), ("window", 1)):
            self._whole(name, least)
        if self.max_wait is not None:
            self._whole("max_wait", len(self.tasks))
        if not isinstance(self.review, bool):
            raise ValueError(f"review must be true or false, got {self.review!r}.")
        for name, known in (("policy", POLICIES), ("when_all_grokked", ENDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")

    def _number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least} to {most}, got {value!r}.")
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}.")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")

    @property
    def patience(self) -> int:
        """``max_wait`` with its default filled in."""
        return 2 * len(self.tasks) if self.max_wait is None else self.max_wait

    @classmethod
    def of(cls, tasks: tuple[str, ...], given: Mapping[str, Any]) -> ScheduleConfig:
        """From a mapping of options, as a configuration file holds them.

        Raises:
            ValueError: an option that does not exist, with the nearest ones, or a value out of range.
        """
        known = [field.name for field in fields(cls) if field.name != "tasks"]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=3) or known
                raise ValueError(f"a schedule has no option {name!r}; it has {', '.join(near)}.")
        return cls(tasks=tasks, **given)
