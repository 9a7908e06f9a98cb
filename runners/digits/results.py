"""What the runs come to: means over seeds with intervals, and differences between arms of the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runners.digits.data import TASKS
from runners.digits.keep import Arm
from runners.digits.training import ASKING, ROUTERS, SCHEDULES, Settings
from runners.intervals import Mean, mean_of

ARMS: tuple[Arm, ...] = tuple((schedule, router) for schedule in SCHEDULES for router in ROUTERS)
SAYS = {
    "blocks": "static: each task in one piece, in order",
    "rounds": "static: one task after another, in order, again and again",
    "need": "the scheduler chooses by accuracy and PI on the validation images, and counts no task as grokked",
    "dynamic": "the same, and tasks above the thresholds are grokked: they hand over, and are reviewed",
    "linear": "softmax of a linear gate",
    "gaussian": "a Gaussian for each expert, begun from the linear gate so that it routes alike",
    "memory": "the same, with the loss that pulls a task's routing to its history",
}

Run = Mapping[str, Any]


def name_of(arm: Arm) -> str:
    return f"{arm[0]}, {arm[1]}"


def final(run: Run) -> float:
    """Test accuracy at the end, mean over tasks."""
    return sum(run["test"][task][-1] for task in TASKS) / len(TASKS)


def worst(run: Run) -> float:
    """Test accuracy at the end of the task that is known least."""
    return float(min(run["test"][task][-1] for task in TASKS))


def forgetting(run: Run) -> float:
    """Best test accuracy of any test before the last one minus the last, mean over tasks (Chaudhry et al. 2018).

    Below zero where a task is best known at the end.
    """
    return sum(max(run["test"][task][:-1]) - run["test"][task][-1] for task in TASKS) / len(TASKS)


def integrity(run: Run) -> float:
    """PI on the validation images at the end, mean over tasks."""
    return float(sum(run["history"][task][-1]["avg_pi"] for task in TASKS) / len(TASKS))


def used(run: Run) -> float:
    """exp(entropy) of the experts' shares at the end, mean over tasks and blocks: 1 is one expert alone."""
    return float(sum(run["experts_used"][task][-1] for task in TASKS) / len(TASKS))


def apart(run: Run) -> float:
    """How differently tasks use the experts: total variation of their shares, mean over pairs of tasks and blocks."""
    shares = run["experts"]
    found = [
        0.5 * sum(abs(a - b) for a, b in zip(one, two, strict=True))
        for index, first in enumerate(TASKS)
        for second in TASKS[index + 1 :]
        for one, two in zip(shares[first], shares[second], strict=True)
    ]
    return float(sum(found) / len(found))


MEASURES = {"final": final, "worst": worst, "forgetting": forgetting, "pi": integrity, "used": used, "apart": apart}
WORDS = {
    "final": "accuracy at the end",
    "worst": "of the worst task",
    "forgetting": "forgetting",
    "pi": "PI at the end",
    "used": "experts used",
    "apart": "tasks apart",
}


DECIDED = {
    "grokked": "tasks that were grokked at some time",
    "grokked_at_end": "tasks grokked at the end",
    "handed_over": "choices by which a grokked task handed over to another",
    "reviews": "choices that review a grokked task",
    "cycles": "choices made while all tasks were grokked",
    "floor": "choices that the floor made",
}


def decided(run: Run) -> dict[str, int]:
    """How often a run's scheduler did what, by the names of ``DECIDED``."""
    choices, kinds = run["decided"], [choice["kind"] for choice in run["decided"]]
    return {
        "grokked": len({task for choice in choices for task in choice["grokked"]} | set(run["grokked"])),
        "grokked_at_end": len(run["grokked"]),
        "handed_over": sum(
            each["previous"] in each["grokked"] and each["task"] != each["previous"] for each in choices
        ),
        "reviews": kinds.count("review"),
        "cycles": kinds.count("cycle"),
        "floor": kinds.count("floor"),
    }


@dataclass(frozen=True)
class Results:
    """All runs by arm and seed, each seed's in the same order."""

    runs: Mapping[Arm, Mapping[int, Run]]
    settings: Settings
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def arms(self) -> list[Arm]:
        return [arm for arm in ARMS if arm in self.runs]

    @property
    def asking(self) -> list[Arm]:
        """Arms whose scheduler decides."""
        return [arm for arm in self.arms if arm[0] in ASKING]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for runs in self.runs.values() for seed in runs})

    def values(self, arm: Arm, measure: str) -> list[float]:
        return [MEASURES[measure](self.runs[arm][seed]) for seed in self.seeds]

    def mean(self, arm: Arm, measure: str) -> Mean:
        return mean_of(self.values(arm, measure))

    def difference(self, arm: Arm, other: Arm, measure: str) -> Mean:
        """``arm`` minus ``other``, seed by seed: both had the same images and the same first weights."""
        pairs = zip(self.values(arm, measure), self.values(other, measure), strict=True)
        return mean_of([one - two for one, two in pairs])

    def comparisons(self) -> list[tuple[str, Arm, Arm]]:
        """What is compared: the schedules under each router, and the routers under each schedule."""
        found = [
            (f"{first[0]} against {second[0]}, {first[1]}", first, second)
            for first in self.arms
            for second in self.arms
            if first[1] == second[1] and first[0] == "dynamic" and second[0] != "dynamic"
        ]
        order = {("gaussian", "linear"), ("memory", "gaussian"), ("memory", "linear")}
        found += [
            (f"{first[1]} against {second[1]}, {first[0]}", first, second)
            for first in self.arms
            for second in self.arms
            if first[0] == second[0] and (first[1], second[1]) in order
        ]
        return found


def course(places: Sequence[float], runs: Sequence[Sequence[float]]) -> list[tuple[float, Mean]]:
    """Each place, and the mean over runs of what they have there."""
    return [(place, mean_of(values)) for place, *values in zip(places, *runs, strict=True)]
