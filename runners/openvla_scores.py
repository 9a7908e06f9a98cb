"""Success and forgetting out of the evaluations' `results.json`, over arms and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.intervals import Mean, mean_of


@dataclass(frozen=True)
class Score:
    """One suite by one model: `success` is successes over the episodes that ended without an error, in [0, 1]."""

    suite: str
    success: float
    episodes: int
    errors: int
    stood_in: str = ""
    """What stood in for a part of the evaluation, as its result says; empty where nothing did."""


@dataclass(frozen=True)
class ArmScores:
    """What is known of one arm. `success` and `forgetting` are None where no seed gave them."""

    success: Mean | None
    forgetting: Mean | None
    by_suite: Mapping[str, Mean]
    """Success of each suite."""
    seeds: Mapping[int, Mapping[str, Score]] = field(default_factory=dict)


class Unreadable(ValueError):
    """A result that does not say what it should."""


def results_in(logs: Path) -> Path | None:
    """The one `results.json` below `logs`, or None."""
    found = sorted(logs.rglob("*results.json"))
    return found[-1] if found else None


def read_score(path: Path) -> Score:
    """Reads one `results.json` of the eval pack.

    Raises Unreadable naming the file and what it lacks.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        episodes, errors, successes = (int(result[name]) for name in ("episodes", "errors", "successes"))
        suite = str(result["task_suite_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{path} is no result of an evaluation: {type(error).__name__}: {error}") from None
    if not result.get("complete", False):
        raise Unreadable(f"{path} is the account of an evaluation that did not come to its end")
    finished = episodes - errors
    if finished <= 0:
        raise Unreadable(f"{path}: every one of {episodes} episodes ended in an error, so there is no success rate")
    return Score(suite, successes / finished, episodes, errors, str(result.get("stood_in") or ""))


def why_unusable(path: Path | None) -> str | None:
    """Why an evaluation's result cannot be used, or None."""
    if path is None:
        return "the evaluation wrote no results.json: is the pack `eval` applied to the checkout?"
    try:
        read_score(path)
    except Unreadable as error:
        return str(error)
    return None


def forgetting_of(before: Mapping[str, Score], after: Mapping[str, Score], suites: Sequence[str]) -> float | None:
    """Mean over the general suites of (success before fine-tuning - success after); None where one is missing."""
    if not suites or any(suite not in before or suite not in after for suite in suites):
        return None
    return sum(before[suite].success - after[suite].success for suite in suites) / len(suites)


def scores_of(
    seeds: Mapping[int, Mapping[str, Score]], before: Mapping[str, Score], suite: str, general: Sequence[str]
) -> ArmScores:
    """Means and 95 % t-intervals over the seeds of one arm; `seeds` maps a seed to its scores by suite."""
    success = [scores[suite].success for scores in seeds.values() if suite in scores]
    lost = [forgetting_of(before, scores, general) for scores in seeds.values()]
    by_suite = {
        name: [scores[name].success for scores in seeds.values() if name in scores] for name in (suite, *general)
    }
    return ArmScores(
        success=mean_of(success) if success else None,
        forgetting=mean_of(known) if (known := [value for value in lost if value is not None]) else None,
        by_suite={name: mean_of(values) for name, values in by_suite.items() if values},
        seeds=seeds,
    )
