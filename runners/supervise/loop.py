"""Attempt, diagnosis, remedy, and on from the last good checkpoint, until a run is done or nothing more can be done."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners import headless
from runners.drawing import NoBackend
from runners.processes import ended as code_in_words
from runners.progress import View
from runners.room import free, in_words, size_of
from runners.supervise import child, remedies
from runners.supervise.attempt import learned, own, prepare
from runners.supervise.causes import Cause, Diagnosis, Ended, Remedy, diagnose
from runners.supervise.checkpoints import Checkpoint, Unfit, aside, complaint, found, mark, quarantine
from runners.supervise.command import Command, UnknownCommand
from runners.supervise.decisions import Decisions
from runners.supervise.metrics.curve import Curve
from runners.supervise.plateau import Settings, Verdict
from runners.supervise.stamped import Stamped
from runners.supervise.watching import NAN, PLATEAU, REACHED, Watcher, history, lost_from

DONE, STOPPED, PAUSED, INTERRUPTED = "done", "stopped", "paused", "interrupted"
LOG, RAW = "log.txt", "raw.log"
SAME = 3
"""So many attempts in a row that change nothing and get no further: the next would end the same way."""


@dataclass(frozen=True)
class Options:
    """How a run is looked after."""

    attempts: int = 20
    adopts: bool = False
    """Whether checkpoints that are there before the first attempt are the run's own."""
    hang_after: float = 1800.0
    mirrors: Sequence[str] = ()
    may_install: bool = False
    hub_caches: Sequence[Path] = ()
    plateau: Settings | None = None
    stops_at_plateau: bool = False
    until: int | None = None
    """Steps after which the run is paused at the next checkpoint: a trial's length."""
    on_plateau: Callable[[Verdict, Curve], None] | None = None


@dataclass
class Result:
    """How a supervised run ended: `state` is done, stopped, paused or interrupted."""

    state: str
    why: str
    command: Command
    curve: Curve
    checkpoint: Checkpoint | None = None
    lines: Sequence[tuple[int, str]] = ()
    """Of the log: those that matter, with their numbers."""
    verdict: Verdict | None = None
    refused: Sequence[str] = field(default_factory=tuple)
    """Remedies that were not possible, and why."""
    advice: Cause | None = None


class Supervisor:
    """Looks after one command in `folder`, which holds its log and its decisions."""

    def __init__(
        self,
        command: Command,
        folder: Path,
        causes: Sequence[Cause],
        view: View,
        options: Options,
        *,
        decisions: Decisions | None = None,
        start: Checkpoint | None = None,
        lock: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.base, self.folder, self.causes, self.view, self.options = command, folder, causes, view, options
        self.start, self.lock = start, lock
        self.decisions = decisions or Decisions(folder)
        self.log = Stamped(folder / LOG)
        self.same = 0
        self.further = False
        """Whether the last attempt left a newer checkpoint."""

    def run(self) -> Result:
        """Attempts until the end. Raises KeyboardInterrupt when interrupted, after the command has been ended."""
        with contextlib.closing(self.log):
            return self._run()

    def _run(self) -> Result:
        state = self.decisions.state
        child.stamp_left_over(self.folder / RAW, self.log)
        if not self.decisions.all:
            there = [
                mark(item, self.base)
                for item in [*([] if self.options.adopts else found(self.base)), *aside(self.base)]
            ]
            known = {"command": self.base.shown(), "digest": self.base.digest, "adopts": self.options.adopts}
            self.decisions.add("start", "first attempt", kept=there, **known)
        elif state.ended == DONE and self.base.output.exists():
            last = next(item for item in reversed(self.decisions.all) if item["kind"] == "end")
            checkpoint = Checkpoint(Path(last["checkpoint"]), int(last["step"])) if "checkpoint" in last else None
            self.view.say(f"done before: {last['why']}; move {self.folder} away to begin anew")
            return Result(DONE, last["why"], learned(self.base, state), history(self.decisions.all), checkpoint)
        elif state.ended:
            self.decisions.add("afresh", f"it had been {state.ended}, and was called again")
        self._note_edits()
        left = self.options.attempts
        while left > 0:
            result = self._attempt()
            if result is not None:
                return self._end(result)
            # What gets further each time is bounded by the run's own length.
            left = self.options.attempts if self.further else left - 1
        return self._end(
            self._stopped(f"{self.options.attempts} attempts got no further: --attempts allows no more in a row")
        )

    def _note_edits(self) -> None:
        """Says so where a configuration file was edited since the last call: the words of the command are the same."""
        # Digests: a value may be a token.
        now = {key: hashlib.sha256(value.encode()).hexdigest()[:12] for key, value in self.base.values.items()}
        before = next((item["values"] for item in reversed(self.decisions.all) if "values" in item), None)
        if before == now:
            return
        changed = sorted(key for key in {*now, *(before or {})} if (before or {}).get(key) != now.get(key))
        why = f"edited since the last call: {', '.join(changed)}" if before is not None else "as they were found"
        self.decisions.add("settings", why, values=now)
        if before is not None:
            self._say(f"the command's settings were {why}")

    def _attempt(self) -> Result | None:
        state = self.decisions.state
        try:
            command, begun = prepare(self.base, state, self.folder, self._say, self._aside, self.start)
        except (UnknownCommand, Unfit) as error:
            return self._stopped(str(error))
        if short := self._short_of_room(command):
            return self._stopped(short, command)
        number = state.attempts + 1
        where = f"from {begun.path.name}, step {begun.step}" if begun else "as the command says"
        self._say(f"attempt {number}, {where}: {command.shown()}")
        self.decisions.add(
            "attempt",
            where,
            attempt=number,
            command=command.shown(),
            set={**state.settings, **state.environment},
            begun=str(begun.path) if begun else None,
            output=str(command.output),
            metrics=list(command.metrics),
            offset=command.offset,
        )
        self.view.stage(f"{self.folder.name} ({number})", None)
        offset = self.log.size()
        self.log.note(f"attempt {number}: {command.shown()}")
        watcher = Watcher(
            command,
            history(self.decisions.all[:-1]),
            self.view,
            lambda step: any(item.step >= step for item in self._checkpoints(command)),
            plateau=self.options.plateau,
            stops=self.options.stops_at_plateau,
            until=self.options.until,
            on_plateau=self.options.on_plateau,
            said=lambda: self.log.last,
        )
        try:
            with self._screen(command) as environment:
                told = command.with_environment({"PYTHONUNBUFFERED": "1", **environment})
                raw = self.folder / RAW
                ended, reason = child.run(
                    told,
                    self.log,
                    raw,
                    watcher,
                    alive=lambda: watcher.alive,
                    hang_after=self.options.hang_after,
                    lock=self.lock,
                    say=self._say,
                )
        except (child.NotStarted, NoBackend) as error:
            return self._stopped(str(error))
        reason = reason or watcher.look()
        last = next(iter(self._checkpoints(command)[::-1]), None)
        if reason in (PLATEAU, REACHED) and ended.asked:
            return Result(PAUSED, reason, learned(self.base, state), watcher.curve, last, verdict=watcher.verdict)
        self.further = last is not None and last.step > (begun.step if begun else -1)
        if ended.code == 0 and reason != NAN:
            # What an upstream logs every so many steps ends before the run does; its last checkpoint may say more.
            reached = max(watcher.step, last.step if last else 0)
            steps = f"step {reached}" + (f" of {watcher.total}" if watcher.total else "")
            if early(watcher, last):
                return self._early(steps, command, watcher)
            return Result(DONE, f"ended well at {steps}", learned(self.base, state), watcher.curve, last)
        diagnosis = self._diagnosis(ended, reason, offset, watcher)
        return self._remedy(command, begun, diagnosis, watcher)

    def _short_of_room(self, command: Command) -> str:
        """Why the next checkpoint would not fit on the disk, also with older ones removed, or the empty string."""
        mine = self._checkpoints(command)
        if not mine:
            return ""
        size = size_of(mine[-1].path)
        if free(command.output) >= size:
            return ""
        try:
            removed = remedies.removed(command, self.decisions.state)
        except remedies.NotPossible as error:
            return (
                f"a checkpoint takes {in_words(size)}, and the disk of {command.output} has "
                f"{in_words(free(command.output))} free: {error}; make room and call the same command again"
            )
        self.decisions.add("room", removed)
        self._say(removed)
        return ""

    def _checkpoints(self, command: Command) -> list[Checkpoint]:
        """The run's own checkpoints that are whole; weights are not read while the command runs."""
        return [item for item in own(command, self.decisions.state) if not complaint(item, command, finite=False)]

    def _diagnosis(self, ended: Ended, reason: str, offset: int, watcher: Watcher) -> Diagnosis:
        if reason == NAN:
            cause = next(cause for cause in self.causes if cause.name == "nan_loss")
            rows = tuple((0, f"step {row.step}: {dict(row.values)}") for row in watcher.bad)
            return Diagnosis(cause, rows, ended)
        before, lines = self.log.lines_from(offset)
        found = diagnose(lines, ended, self.causes)
        # Numbers are those of the whole log, which a reader has before them.
        return dataclasses.replace(found, lines=tuple((number + before, text) for number, text in found.lines))

    def _remedy(
        self, command: Command, begun: Checkpoint | None, diagnosis: Diagnosis, watcher: Watcher
    ) -> Result | None:
        state, cause = self.decisions.state, diagnosis.cause
        shown = [text for _, text in diagnosis.lines]
        name = cause.name if cause else "unknown"
        why = cause.says if cause else "for a reason that no row of the table knows"
        self._say(f"died ({words_of(diagnosis.ended)}): {why}")
        for number, text in diagnosis.lines[-8:]:
            self._say(f"    {number or ''}: {text}")

        def scene(remedy: Remedy, uses: int) -> remedies.Scene:
            return remedies.Scene(
                command,
                diagnosis,
                remedy,
                uses,
                state,
                begun,
                self.options.mirrors,
                self.options.may_install,
                self.options.hub_caches,
            )

        def plan(remedy: Remedy) -> None:
            self.decisions.add("plan", f"{name}: {remedy.name}", cause=name, remedy=remedy.name)

        remedy, change, refused = remedies.choose(scene, diagnosis, state, plan)
        for line in refused:
            self._say(f"    no remedy: {line}")
        if change is None or remedy is None:
            if refused:
                self.decisions.add("refused", "; ".join(refused), cause=name)
            result = self._stopped(
                cause.says if cause else "no row of the table of causes fits", command, watcher.curve
            )
            result.lines, result.refused, result.advice = diagnosis.lines, refused, cause
            self.decisions.add("stop", result.why, cause=name, lines=shown, refused=refused)
            return result
        if watcher.bad:
            self._leave_behind(command, lost_from(watcher.curve, watcher.bad[0].step))
        more: dict[str, Any] = {"settings": dict(change.settings), "environment": dict(change.environment)}
        newest = max((item.step for item in self._checkpoints(command)), default=-1)
        if change.factor is not None:
            # Whatever is written until the next attempt begins carries the rate of this one.
            more |= {"factor": change.factor, "from_step": max(newest, begun.step if begun else 0)}
        # Waiting has a limit of its own, and remedies that come after it.
        changed = bool(change.settings or change.environment or change.factor or change.wait)
        self.same = 0 if changed or self.further else self.same + 1
        more["further"] = self.further
        self._say(f"    remedy: {change.says}")
        self.decisions.add("remedy", change.says, cause=name, remedy=remedy.name, lines=shown, refused=refused, **more)
        if self.same >= SAME:
            return self._stopped(
                f"{self.same} attempts in a row ended alike ({name}) without a newer checkpoint", command, watcher.curve
            )
        if change.wait:
            time.sleep(change.wait)
        return None

    def _early(self, steps: str, command: Command, watcher: Watcher) -> Result | None:
        """An exit code of 0 before the last step: tried once more, and where that gets no further, told."""
        self.same = 0 if self.further else self.same + 1
        if self.same >= 2:
            why = (
                f"it ends by itself at {steps}, with exit code 0, and gets no further: early stopping, or a time limit"
            )
            return self._stopped(why, command, watcher.curve)
        self._say(f"ended with exit code 0 at {steps}: goes on from the last good checkpoint")
        self.decisions.add(
            "remedy", f"goes on: ended at {steps}", cause="ended_early", remedy="resume", lines=[], further=self.further
        )
        return None

    def _aside(self, item: Checkpoint) -> None:
        """Moves a checkpoint out of upstream's sight, after that has been written down."""
        why = f"later than the one that is gone on from: {item.path.name}"
        self.decisions.add("aside", why, paths=[str(item.path)])
        self._say(f"moved {item.path.name} aside, to {quarantine(item).name}")

    def _leave_behind(self, command: Command, lost: int) -> None:
        """Moves aside what was saved when the loss was lost, finite as the weights may be."""
        late = [item for item in own(command, self.decisions.state) if item.step >= lost]
        if late:
            self.decisions.add("aside", f"saved from step {lost} on", paths=[str(item.path) for item in late])
        for item in late:
            quarantine(item)
        if late:
            names = f"{late[0].path.name} to {late[-1].path.name}" if len(late) > 1 else late[0].path.name
            self._say(f"    moved aside, saved from step {lost} on, where the loss was lost: {names}")

    def _stopped(self, why: str, command: Command | None = None, curve: Curve | None = None) -> Result:
        return Result(STOPPED, why, command or self.base, curve or Curve())

    def _end(self, result: Result) -> Result:
        if self.decisions.all[-1]["kind"] != "end":
            where = (
                {"checkpoint": str(result.checkpoint.path), "step": result.checkpoint.step} if result.checkpoint else {}
            )
            self.decisions.add("end", result.why, state=result.state, **where)
        self._say(f"{result.state}: {result.why}")
        return result

    def interrupted(self) -> None:
        """Writes down that a person or the machine asked to end: the same command goes on from there."""
        self.decisions.add("end", "asked to end", state=INTERRUPTED)

    def _say(self, text: str) -> None:
        self.view.say(text)
        self.log.note(text)

    @contextlib.contextmanager
    def _screen(self, command: Command) -> Any:
        """What a way to draw needs as long as the command runs: glx an Xvfb."""
        chosen = self.decisions.state.environment.get("MUJOCO_GL")
        if chosen != "glx":
            yield {}
            return
        with headless.Backend(chosen, {}).environment() as environment:
            yield environment


def early(watcher: Watcher, last: Checkpoint | None) -> bool:
    """Whether the steps are known to end later than both the metrics and the checkpoints do."""
    if watcher.total is None or not watcher.step:
        return False
    points = watcher.curve.series("loss")
    every = points[-1][0] - points[-2][0] if len(points) > 1 else 1
    # What is logged every so many steps ends up to that much before the end.
    return max(watcher.step + every, last.step + 1 if last else 0) <= watcher.total


def words_of(ended: Ended) -> str:
    """The exit state in words."""
    extra = ", without a word for too long" if ended.hung else ""
    extra += ", the kernel ran out of memory" if ended.host_memory else ""
    return code_in_words(ended.code) + extra
