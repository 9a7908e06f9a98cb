"""Tries a declared list of changes after a plateau, one after the other, and goes on with the best.

A trial runs in a folder and an output of its own, from the best checkpoint so far, for a bounded number of steps; then
its control does, which is the best unchanged, from the same checkpoint over the same steps. The trial takes the lead
where it is lower by more than noise (`compare.py`), at a level that the list shares. The control's steps are not lost:
it writes where the best does, and where the trial does not lead, the run goes on from the control's end. A change that
begins anew is compared with the best's own course, over as many steps from the beginning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.supervise import carry
from runners.supervise.changes import ANEW, ON, Change
from runners.supervise.checkpoint_names import Checkpoint
from runners.supervise.command import Command
from runners.supervise.compare import ALPHA, MEASURES, ROWS, difference, interval
from runners.supervise.decisions import Decisions
from runners.supervise.loop import INTERRUPTED, STOPPED, Result
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row

AS_GIVEN = "as given"
SHARE = 10
"""A trial is one so many-th of the run's steps where nobody says otherwise, and as long as a comparison takes."""


@dataclass(frozen=True)
class Best:
    """What leads: the settings that it puts over the command as given, the checkpoint to go on from, its course.

    `over`: values by upstream's own keys.
    """

    name: str
    command: Command
    checkpoint: Checkpoint
    over: Mapping[str, str] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)

    def on_to(self, result: Result) -> Best:
        """The same, as far on as `result` came."""
        at = result.checkpoint
        if at is None or at.step <= self.checkpoint.step:
            return self
        return dataclasses.replace(self, checkpoint=at, curve=course(self.curve, result.curve, self.checkpoint.step))


Trial = Callable[[Command, Path, Checkpoint | None, "int | None"], Result]
"""Runs a command supervised in a folder, from a checkpoint, until a step is reached; at once where it has before."""


def tune(
    paused: Result,
    changes: Sequence[Change],
    folder: Path,
    decisions: Decisions,
    run: Trial,
    say: Callable[[str], None],
    *,
    steps: int | None = None,
    total: int | None = None,
) -> tuple[Best | None, list[dict[str, Any]], Result | None]:
    """The best of the run as it was and the changes; what was tried; and the result that ended the trials early.

    `steps`: the length of a trial where its entry names none; `total`: the run's steps, where they are known. Trials
    that earlier decisions know are not run again.
    """
    every = interval(paused.curve.series("loss"))
    if paused.checkpoint is None or not math.isfinite(every):
        say("nothing to compare with: the run has too few rows of a loss, or no checkpoint")
        return None, [], None
    best = Best(AS_GIVEN, paused.command, paused.checkpoint, curve=paused.curve)
    usual = steps or max((total or 0) // SHARE, math.ceil(ROWS * every))
    known = {item["key"]: item for item in decisions.all if item["kind"] == "trial"}
    tried: list[dict[str, Any]] = []
    for change in changes:
        start = best.checkpoint.step
        until = (change.steps or start) if change.begin == ANEW else start + (change.steps or usual)
        key = key_of(change, best, until)
        home = folder / "trials" / f"{slug(change.name)}-{key[:6]}"
        changed, over = changed_by(change, best, home)
        if key in known and known[key].get("state", STOPPED) == STOPPED:
            tried.append(known[key])
            continue
        if refused := "" if key in known else unfit(change, best, until, every, total):
            tried.append(decisions.add("trial", f"not tried: {refused}", **described(change, key, best)))
            say(f"trial {change.name}: not tried: {refused}")
            continue
        before = best
        result, control = _run(change, best, changed, home, until, run, say)
        for ended in (result, control):
            if ended is not None and ended.state == INTERRUPTED:
                return before, tried, ended
        best = best.on_to(control) if control is not None else best
        found = known.get(key)
        if found is None:
            old = before if control is None else dataclasses.replace(before, curve=control.curve)
            made = judgement(change, result, old, until, start, len(changes), control)
            found = decisions.add("trial", **{**described(change, key, before), **made})
            say(f"trial {change.name}: {found['why']}")
        tried.append(found)
        if found["better"] and result.checkpoint is not None:
            since = 0 if change.begin == ANEW else start
            best = Best(change.name, changed, result.checkpoint, over, course(before.curve, result.curve, since))
    where = {"checkpoint": str(best.checkpoint.path), "step": best.checkpoint.step}
    why, names = f"the best is {best.name}", [each.name for each in changes]
    decisions.add("tuned", why, best=best.name, over=dict(best.over), list=digest(changes), names=names, **where)
    return best, tried, None


def _run(
    change: Change, best: Best, changed: Command, home: Path, until: int, run: Trial, say: Callable[[str], None]
) -> tuple[Result, Result | None]:
    """The trial, and its control where it has one to be compared with."""
    begin = None if change.begin == ANEW else begun_from(change, best, changed, home)
    say(f"trial: {change.name}, to step {until}" + (f" from {begin.path.name}" if begin else " anew"))
    result = run(changed, home, begin, until)
    if change.begin == ANEW or result.state in (STOPPED, INTERRUPTED):
        return result, None
    # After the trial: upstream may remove the checkpoint that both begin from, once it has written later ones.
    say(f"control: {best.name} unchanged, to step {until} from {best.checkpoint.path.name}")
    return result, run(best.command, home.with_name(f"{home.name}-control"), best.checkpoint, until)


def begun_from(change: Change, best: Best, changed: Command, home: Path) -> Checkpoint:
    """The best's checkpoint, or a copy of it in `home` that carries the trial's rate; made once."""
    factor, into = change.rate_factor(best.command), home / "start"
    if factor == 1.0 or changed.restores != "all":
        return best.checkpoint
    made = Checkpoint(into / best.checkpoint.path.name, best.checkpoint.step)
    return made if made.path.exists() else carry.carried(best.checkpoint, changed, factor, into)


def best_of(record: Mapping[str, Any], command: Command) -> Best:
    """What a decision `tuned` says is the best, over `command` as it was given."""
    checkpoint = Checkpoint(Path(record["checkpoint"]), int(record["step"]))
    return Best(record["best"], command.with_settings(record["over"]), checkpoint, record["over"])


def unfit(change: Change, best: Best, until: int, every: float, total: int | None) -> str:
    """Why a trial cannot be judged whatever it gives, or the empty string."""
    length = until if change.begin == ANEW else until - best.checkpoint.step
    if length < ROWS * every:
        need = math.ceil(ROWS * every)
        return f"{length} steps give {length / every:.0f} values of the loss, of {ROWS} that it takes: steps = {need}"
    if change.begin == ON and total is not None and until > total:
        return f"it would end at step {until}, and the run has {total}"
    return ""


def changed_by(change: Change, best: Best, home: Path) -> tuple[Command, dict[str, str]]:
    """The best's command with the change and an output of its own, and what stands over the command as given."""
    keys = best.command.family.settings
    own = {**change.over(best.command), keys["output"]: str(home / "output")}
    return best.command.with_settings(own), {**best.over, **own}


def described(change: Change, key: str, best: Best) -> dict[str, Any]:
    return {
        "name": change.name,
        "key": key,
        "changes": {**change.roles, **change.settings},
        "begin": change.begin,
        "against": best.name,
        "better": False,
    }


def judgement(
    change: Change, result: Result, old: Best, until: int, start: int, trials: int, control: Result | None
) -> dict[str, Any]:
    """What is written down of a trial that ran. `old`: what it is compared with, with its course."""
    for name, ended in (("it", result), (f"{old.name} unchanged", control)):
        if ended is not None and ended.state == STOPPED:
            return {"state": result.state, "why": f"not judged: {name} was stopped: {ended.why}"}
    since = 0 if change.begin == ANEW else start
    found = difference(result.curve, old.curve, since, until, ALPHA / trials)
    if isinstance(found, str) or result.checkpoint is None:
        return {"state": result.state, "why": f"not judged: {found if isinstance(found, str) else 'no checkpoint'}"}
    words = (
        f"{found.measure} {found.loss:.4g}, {found.is_:+.3g} ± {found.bound:.2g} against {old.name} at the same steps"
    )
    verdict = "the best so far" if found.better else "no better than noise" if found.is_ < 0 else "no better"
    return {
        "state": result.state,
        "why": f"{words}: {verdict}",
        "better": found.better,
        "measure": found.measure,
        "loss": found.loss,
        "opponent": found.against,
        "checkpoint": str(result.checkpoint.path),
        "step": result.checkpoint.step,
    }


def course(before: Curve, after: Curve, since: int) -> Curve:
    """The losses of `before` up to step `since`, and those of `after` from there on."""
    made = Curve()
    for name in MEASURES:
        points = [point for point in before.series(name) if point[0] <= since]
        points += [point for point in after.series(name) if point[0] > since]
        made.add([Row(step, {name: value}, source=name) for step, value in points])
    return made


def key_of(change: Change, best: Best, until: int) -> str:
    """Tells a trial from others: by all that its entry says, what it changes, and where it begins and ends."""
    told = [change.described(), best.name, dict(best.over), str(best.checkpoint.path), best.checkpoint.step, until]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def digest(changes: Sequence[Change]) -> str:
    """Tells a list of changes from others."""
    return hashlib.sha256(json.dumps([each.described() for each in changes], sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """A folder's name for a change; what ASCII cannot say is told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return plain if plain and name.isascii() else f"{plain or 'change'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
