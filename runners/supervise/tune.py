"""Tries a declared list of changes after a plateau, one after the other, and goes on with the best.

A trial runs in a folder and an output of its own, from the best checkpoint so far, for a bounded number of steps. Its
score is the loss of its last third (`eval_loss` where the run evaluates). It takes the lead only where its loss is
lower by more than noise: the 95 % interval of the difference of two means (Welch), over the means of five blocks of
each, so that neighbouring rows that go together do not count as many. The run as it was has stopped falling; a trial
that leads may still fall, so it goes on unchanged beside the next one, and is what that one is measured against.
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
from runners.supervise.changes import ANEW, ON, Change
from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command
from runners.supervise.decisions import Decisions
from runners.supervise.loop import INTERRUPTED, STOPPED, Result
from runners.supervise.metrics.curve import Curve

AS_GIVEN = "as given"
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


def score_of(curve: Curve, since: int = 0, until: float = math.inf) -> Score | None:
    """The last third of the losses after `since`, up to `until`, in blocks; None with fewer than two rows a block."""
    for name in ("eval_loss", "loss"):
        values = [value for step, value in curve.series(name) if since < step <= until and math.isfinite(value)]
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
    best = Best(AS_GIVEN, paused.command, score, paused.checkpoint)
    known = {(item["kind"], item["name"]): item for item in decisions.all if item["kind"] in ("trial", "control")}
    tried: list[dict[str, Any]] = []

    def judged(kind: str, change: Change, against: Best) -> dict[str, Any] | Result:
        """What is known of a trial or a control, run if need be; a Result where somebody asked to end meanwhile."""
        home = folder / "trials" / slug(change.name)
        if (kind, change.name) in known:
            return known[kind, change.name]
        command, start, until = trial_of(change, best, home, steps) if kind == "trial" else ahead_of(best, steps)
        say(f"{kind}: {change.name}, to step {until}" + (f" from {start.path.name}" if start else " anew"))
        result = run(command, home, start, until)
        if result.state == INTERRUPTED:
            return result
        record = decisions.add(kind, **judgement(change, result, against, start.step if start else 0, until))
        say(f"{kind} {change.name}: {record['why']}")
        return record

    for change in changes:
        opponent = best
        if change.begin == ON and best.name != AS_GIVEN:
            found = judged("control", Change(f"{best.name}, on from step {best.checkpoint.step}"), best)
            if isinstance(found, Result):
                return best, tried, found
            opponent = taken(found, best.name, best.command) or best
        found = judged("trial", change, opponent)
        if isinstance(found, Result):
            return best, tried, found
        tried.append(found)
        changed = changed_by(change, best, folder / "trials" / slug(change.name))
        best = (taken(found, change.name, changed) if found["better"] else None) or opponent
    decisions.add(
        "tuned", f"the best is {best.name}", best=best.name, loss=best.score.mean, command=best.command.shown()
    )
    return best, tried, None


def taken(record: Mapping[str, Any], name: str, command: Command) -> Best | None:
    """What a trial or a control led to, or None where it could not be judged."""
    if "means" not in record:
        return None
    checkpoint = Checkpoint(Path(record["checkpoint"]), int(record["step"]))
    return Best(name, command, Score(record["measure"], tuple(record["means"])), checkpoint)


def ahead_of(best: Best, steps: int) -> tuple[Command, Checkpoint, int]:
    """The best as it is, as far on as a trial goes."""
    return best.command, best.checkpoint, best.checkpoint.step + steps


def changed_by(change: Change, best: Best, home: Path) -> Command:
    """The best's command with the change, and an output of its own."""
    return change.on(best.command).with_roles({"output": str(home / "output")})


def trial_of(change: Change, best: Best, home: Path, steps: int) -> tuple[Command, Checkpoint | None, int]:
    """The command of a trial, the checkpoint that it begins from, and the step at which it ends."""
    command = changed_by(change, best, home)
    length = change.steps or steps
    if change.begin == ANEW:
        # As many steps as the run had: a loss after fewer says nothing about the loss after more.
        return command, None, change.steps or best.checkpoint.step
    start, factor = best.checkpoint, change.rate_factor(best.command)
    if factor != 1.0 and command.restores == "all":
        start = checkpoints.rescaled(start, command, factor, home / "start")
    return command, start, best.checkpoint.step + length


def judgement(change: Change, result: Result, best: Best, since: int, until: int) -> Mapping[str, Any]:
    """What is written down of a trial. It may have gone on to a checkpoint beyond its last step `until`."""
    score = score_of(result.curve, since, until)
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
