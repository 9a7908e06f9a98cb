"""Tries a declared list of changes after a plateau, one after the other, and goes on with the best.

A trial runs in a folder and an output of its own, from the best checkpoint so far, for a bounded number of steps. Its
score is the loss of its last third (`eval_loss` where the run evaluates). It takes the lead only where its loss is
lower by more than noise: the 95 % interval of the difference of two means (Welch), over the means of five blocks of
each, so that neighbouring rows that go together do not count as many.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.intervals import t_quantile
from runners.supervise import checkpoints
from runners.supervise.changes import ANEW, Change
from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command
from runners.supervise.decisions import Decisions
from runners.supervise.loop import INTERRUPTED, STOPPED, Result
from runners.supervise.metrics.curve import Curve

BLOCKS = 5
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """Block means of the loss at the end of a run; `name` says of which loss."""

    name: str
    means: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.means) / len(self.means)

    def variance(self) -> float:
        """Of the mean."""
        squares = math.fsum((value - self.mean) ** 2 for value in self.means)
        return squares / (len(self.means) - 1) / len(self.means)


def score_of(curve: Curve, since: int = 0) -> Score | None:
    """The last third of the losses after step `since`, in blocks; None with fewer than two rows a block."""
    for name in ("eval_loss", "loss"):
        values = [value for step, value in curve.series(name) if step > since and math.isfinite(value)]
        last = values[-max(len(values) // 3, min(len(values), 2 * BLOCKS)) :]
        if len(last) >= 2 * BLOCKS:
            size = len(last) / BLOCKS
            blocks = [last[round(index * size) : round((index + 1) * size)] for index in range(BLOCKS)]
            return Score(name, tuple(math.fsum(block) / len(block) for block in blocks))
    return None


def lower(new: Score, old: Score) -> tuple[bool, float, float]:
    """Whether `new` is lower by more than noise: (verdict, difference new - old, half width of its interval)."""
    variance = new.variance() + old.variance()
    difference = new.mean - old.mean
    if variance == 0.0:
        return difference < 0, difference, 0.0
    # Welch and Satterthwaite's degrees of freedom, rounded down: the wider interval.
    parts = [score.variance() ** 2 / (len(score.means) - 1) for score in (new, old)]
    degrees = max(1, int(variance**2 / math.fsum(parts)))
    half = t_quantile((1 + CONFIDENCE) / 2, degrees) * math.sqrt(variance)
    return difference + half < 0, difference, half


@dataclass(frozen=True)
class Best:
    """What leads: its command as it stands, its score, and the checkpoint that it can go on from."""

    name: str
    command: Command
    score: Score
    checkpoint: Checkpoint


Trial = Callable[[Command, Path, Checkpoint | None, "int | None"], Result]
"""Runs a command supervised in a folder, from a checkpoint, until a step is reached."""


def tune(
    paused: Result,
    changes: Sequence[Change],
    folder: Path,
    decisions: Decisions,
    run: Trial,
    say: Callable[[str], None],
    *,
    steps: int,
) -> tuple[Best | None, list[dict[str, Any]], Result | None]:
    """The best of the run as it was and the changes; what was tried; and the result that ended the trials early.

    `steps` is the length of a trial where its entry names none. Trials that earlier decisions know are not run again.
    """
    score = score_of(paused.curve)
    if score is None or paused.checkpoint is None:
        say("nothing to compare with: the run has too few rows of a loss, or no checkpoint")
        return None, [], None
    best = Best("as given", paused.command, score, paused.checkpoint)
    known = {item["name"]: item for item in decisions.all if item["kind"] == "trial"}
    tried: list[dict[str, Any]] = []
    for change in changes:
        home = folder / "trials" / slug(change.name)
        command, start, until = trial_of(change, best, home, steps)
        if change.name in known:
            record = known[change.name]
        else:
            say(f"trial: {change.name}, {until} steps" + (f" from {start.path.name}" if start else " anew"))
            result = run(command, home, start, until)
            if result.state == INTERRUPTED:
                return best, tried, result
            record = decisions.add("trial", **judged(change, result, best, start.step if start else 0))
        tried.append(record)
        say(f"trial {change.name}: {record['why']}")
        if record["better"]:
            checkpoint = Checkpoint(Path(record["checkpoint"]), int(record["step"]))
            best = Best(change.name, command, Score(record["measure"], tuple(record["means"])), checkpoint)
    decisions.add(
        "tuned", f"the best is {best.name}", best=best.name, loss=best.score.mean, command=best.command.shown()
    )
    return best, tried, None


def trial_of(change: Change, best: Best, home: Path, steps: int) -> tuple[Command, Checkpoint | None, int]:
    """The command of a trial, the checkpoint that it begins from, and the step at which it ends."""
    command = change.on(best.command).with_roles({"output": str(home / "output")})
    length = change.steps or steps
    if change.begin == ANEW:
        # As many steps as the run had: a loss after fewer says nothing about the loss after more.
        return command, None, change.steps or best.checkpoint.step
    start, factor = best.checkpoint, change.rate_factor(best.command)
    if factor != 1.0 and command.restores == "all":
        start = checkpoints.rescaled(start, command, factor, home / "start")
    return command, start, best.checkpoint.step + length


def judged(change: Change, result: Result, best: Best, since: int) -> Mapping[str, Any]:
    """What is written down of a trial."""
    score = score_of(result.curve, since)
    made: dict[str, Any] = {
        "name": change.name,
        "changes": {**change.roles, **change.settings},
        "begin": change.begin,
        "state": result.state,
        "better": False,
        "against": best.name,
    }
    if result.state == STOPPED or score is None or result.checkpoint is None:
        return made | {"why": f"not judged: {result.why if result.state == STOPPED else 'too few rows of a loss'}"}
    if score.name != best.score.name:
        return made | {"why": f"not judged: it tells of {score.name}, the best so far of {best.score.name}"}
    better, difference, half = lower(score, best.score)
    words = f"{score.name} {score.mean:.4g}, {difference:+.3g} ± {half:.2g} against {best.name}"
    return made | {
        "why": f"{words}: {'the best so far' if better else 'no better than noise' if difference < 0 else 'no better'}",
        "better": better,
        "measure": score.name,
        "means": score.means,
        "checkpoint": str(result.checkpoint.path),
        "step": result.checkpoint.step,
    }


def slug(name: str) -> str:
    """A folder's name for a change; what ASCII cannot say is told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return plain if plain and name.isascii() else f"{plain or 'change'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
