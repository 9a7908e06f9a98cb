"""What is known of a task after each evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .pi import predictive_integrity


@dataclass(frozen=True)
class TaskMetrics:
    """One evaluation of one task; accuracies and PI lie in [0, 1], losses and entropies are nats.

    Raises ValueError for a number that is not finite: it would rank first whatever the others are.

    Attributes:
        step: optimizer steps done.
        epoch: of the trainer's, which under a dynamic schedule is one chunk of steps.
        avg_accuracy: share of labelled tokens (or samples) predicted right.
        avg_loss: epsilon, the mean over the same.
        avg_entropy: tau, the mean over the same.
        surprise: the gradient's norm over a small fixed subset of the task's validation.
        avg_pi: predictive integrity of these three.
        delta_accuracy: against the evaluation before; 0 at the first.
        delta_pi: likewise.
        tokens: over how many the means were taken.
        train_pi: mean PI over the optimizer steps on this task since the evaluation before; None without any.
        train_steps: how many these were.
        train_left_out: steps on this task that have no PI: no labelled token, or a loss or gradient that is not finite.
    """

    step: int
    epoch: float
    avg_accuracy: float
    avg_loss: float
    avg_entropy: float
    surprise: float
    avg_pi: float
    delta_accuracy: float
    delta_pi: float
    tokens: int
    train_pi: float | None = None
    train_steps: int = 0
    train_left_out: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "train_pi":
                continue
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"task metrics need a finite {field.name}, got {value!r} at step {self.step!r}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TaskMetrics:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: other fields than a ``TaskMetrics`` has, or one that is not finite.
        """
        names = {field.name for field in fields(cls)}
        if set(given) != names:
            raise ValueError(f"task metrics with fields {sorted(given)}, not {sorted(names)}: from another version?")
        return cls(**given)


TaskHistory = dict[str, list[TaskMetrics]]


def record(
    history: TaskHistory,
    task: str,
    *,
    step: int,
    epoch: float,
    accuracy: float,
    epsilon: float,
    tau: float,
    surprise: float,
    tokens: int,
    alpha: float = 1.0,
    gamma: float = 0.5,
    train_pi: float | None = None,
    train_steps: int = 0,
    train_left_out: int = 0,
) -> TaskMetrics:
    """Append an evaluation to ``history[task]`` and return it; deltas are against the one before.

    Raises:
        ValueError: no token, an accuracy outside [0, 1], a step before the last one's, or what PI refuses.
    """
    if tokens < 1:
        raise ValueError(f"the evaluation of {task!r} has no labelled token: give it validation samples with labels.")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"the accuracy of {task!r} must be in [0, 1], got {accuracy!r}.")
    entries = history.setdefault(task, [])
    last = entries[-1] if entries else None
    if last is not None and step < last.step:
        raise ValueError(f"an evaluation of {task!r} at step {step} after the one at step {last.step}.")
    try:
        pi = predictive_integrity(epsilon, tau, surprise, alpha=alpha, gamma=gamma)
    except ValueError as error:
        raise ValueError(
            f"the evaluation of {task!r} at step {step}: {error} A loss or a gradient that is not finite means that "
            "the training has diverged: go on from an earlier checkpoint with a lower learning rate, or in bfloat16."
        ) from error
    entries.append(
        TaskMetrics(
            step=step,
            epoch=epoch,
            avg_accuracy=accuracy,
            avg_loss=epsilon,
            avg_entropy=tau,
            surprise=surprise,
            avg_pi=pi,
            delta_accuracy=0.0 if last is None else accuracy - last.avg_accuracy,
            delta_pi=0.0 if last is None else pi - last.avg_pi,
            tokens=tokens,
            train_pi=train_pi,
            train_steps=train_steps,
            train_left_out=train_left_out,
        )
    )
    return entries[-1]
