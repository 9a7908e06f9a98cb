"""Stages of a pipeline: one command each, skipped while nothing that it depends on has changed.

A stage owns a folder. Its record there is written last, and taken away first: a stage that was killed, or whose output
is gone, is not taken for done. Another record says what it was begun with: where nothing of that has changed since, a
stage that can go on does, and any other begins anew in an empty folder; what was there is moved aside.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.digests import Digests, write_whole
from runners.places import Refused
from runners.processes import call, ended, tail_of
from runners.progress import View
from runners.stage import BLOCKED, DONE, FAILED, KEPT, LEFT_OUT, PLANNED, Outcome, Stage
from runners.stage_aside import move_aside
from runners.stage_progress import Watched
from runners.stage_records import (
    BEGUN,
    LOG,
    RECORD,
    differing,
    key_of,
    listing,
    read_begun,
    read_record,
    reason,
    seconds_of,
    there,
)
from runners.stage_room import need_room_of


class UnreadableInput(OSError):
    """An input of a stage is not there or cannot be read."""


class Engine:
    """Runs stages one after the other in the order given; `view` shows the one that runs, and what is said."""

    def __init__(
        self,
        digests: Digests,
        say: Callable[[str], None] | None = None,
        *,
        dry: bool = False,
        lock: int | None = None,
        view: View | None = None,
    ) -> None:
        self.digests, self.dry, self.lock, self.view = digests, dry, lock, view
        self.say: Callable[[str], None] = say or (print if view is None else view.say)
        self.outcomes: dict[str, Outcome] = {}

    def parts(self, stage: Stage) -> dict[str, str]:
        """Everything that the stage depends on, by name, as text or digest.

        Raises UnreadableInput naming an input that is not there.
        """
        parts = {"command": json.dumps(list(stage.command))}
        parts |= {f"option {name}": value for name, value in stage.options.items()}
        for name, path in stage.inputs.items():
            try:
                parts[f"input {name}"] = self.digests.of(path, stage.caches)
            except OSError as error:
                raise UnreadableInput(f"{name}: {error}") from None
        return parts

    def run(self, stage: Stage, *, wanted: bool = True) -> Outcome:
        """Runs, keeps or blocks the stage, says so, and remembers the outcome under the stage's name.

        A stage that is not `wanted` is kept where its record holds, and blocks what needs it where not.
        """
        if self.view is not None:
            self.view.reach()
        outcome = self._run(stage, wanted)
        self.outcomes[stage.name] = outcome
        self.digests.save()
        if outcome.state == KEPT:
            self.say(f"    {stage.name}: kept ({outcome.seconds:.0f} s then){_inexactly(outcome)}")
        elif outcome.state == DONE:
            self.say(f"    {stage.name}: done in {outcome.seconds:.0f} s{_inexactly(outcome)}")
        elif not outcome.good and outcome.state != PLANNED:
            self.say(f"    {stage.name}: {outcome.state}: {outcome.why}")
        return outcome

    def holds(self, stage: Stage) -> bool:
        """Whether the stage's record holds: it would be kept."""
        try:
            parts = self.parts(stage)
        except UnreadableInput:
            return False
        return not reason(read_record(stage.folder), parts, key_of(parts), stage)

    def _run(self, stage: Stage, wanted: bool) -> Outcome:
        needed = [self.outcomes[name] for name in stage.needs if name in self.outcomes]
        bad = [outcome.stage.name for outcome in needed if outcome.state in (FAILED, BLOCKED, LEFT_OUT)]
        if bad:
            return Outcome(stage, BLOCKED, f"it needs {', '.join(bad)}, which did not end well")
        if self.dry and wanted:
            self.say(f"    {stage.name}:\n        {stage.shown()}")
        if self.dry:
            return Outcome(stage, PLANNED)
        try:
            parts = self.parts(stage)
        except UnreadableInput as error:
            return Outcome(stage, BLOCKED, str(error))
        key = key_of(parts)
        record = read_record(stage.folder)
        why = reason(record, parts, key, stage)
        if record is not None and not why:
            seconds, lost = float(record["seconds"]), record.get("inexact", "")
            return Outcome(stage, KEPT, "nothing has changed", seconds, key, lost)
        if not wanted:
            return Outcome(stage, LEFT_OUT, f"{why}, and --stages leaves it out", key=key)
        begun = read_begun(stage.folder)
        going_on = None
        if begun is not None and begun["key"] == key and stage.resume is not None:
            try:
                going_on = stage.resume()
            except OSError as error:
                return Outcome(stage, FAILED, f"it cannot go on: {error}; {_to_begin_anew(stage)}", key=key)
        how = f"{why}{'' if begun is None else _how(stage, begun, parts, going_on is not None)}"
        self.say(f"    {stage.name}: {how}\n        {shlex.join(going_on or stage.command)}")
        return self._command(stage, parts, key, why, begun, going_on)

    def _command(
        self,
        stage: Stage,
        parts: dict[str, str],
        key: str,
        why: str,
        begun: dict[str, Any] | None,
        going_on: Sequence[str] | None,
    ) -> Outcome:
        log, remedy = stage.folder / LOG, stage.remedy
        start, spent, attempts, lost = time.monotonic(), 0.0, 1, ""
        try:
            need_room_of(stage, goes_on=going_on is not None)
            if begun is not None and going_on is not None:
                remedy = f"{remedy}; {_to_begin_anew(stage)}"
                spent, attempts = begun["spent"] + seconds_of(log, begun["at"]), begun["attempts"] + 1
                lost = stage.inexact or begun.get("inexact", "")
            else:
                self._empty(stage)
            at_first = {"key": key, "parts": parts, "at": time.time(), "spent": spent, "attempts": attempts}
            write_whole(stage.folder / BEGUN, json.dumps(at_first | _lost(lost), indent=1))
            code = self._call(stage, going_on or stage.command, log)
        except (OSError, Refused) as error:
            return Outcome(stage, FAILED, f"{error}; {remedy}", spent + time.monotonic() - start, key)
        seconds = spent + time.monotonic() - start
        if code:
            return Outcome(stage, FAILED, f"{ended(code)}\n{tail_of(log)}\n{remedy}", seconds, key)
        missing = [str(path) for path in stage.outputs if not there(path)]
        complaint = f"it ended well but did not write {', '.join(missing)}" if missing else None
        if complaint is None and stage.check is not None:
            complaint = stage.check()
        if complaint:
            (stage.folder / BEGUN).unlink()
            return Outcome(stage, FAILED, f"{complaint}\n{tail_of(log)}\n{stage.remedy}", seconds, key)
        known = {"key": key, "parts": parts, "command": stage.shown(), "seconds": seconds, "attempts": attempts}
        write_whole(stage.folder / RECORD, json.dumps(known | _lost(lost) | {"outputs": listing(stage)}, indent=1))
        (stage.folder / BEGUN).unlink()
        return Outcome(stage, DONE, why, seconds, key, lost)

    def _empty(self, stage: Stage) -> None:
        if said := move_aside(stage.folder):
            self.say(f"        {said}")
        stage.folder.mkdir(parents=True)
        if stage.before is not None:
            stage.before()

    def _call(self, stage: Stage, command: Sequence[str], log: Path) -> int:
        if self.view is None:
            return call(command, stage.environment, stage.folder, log, self.lock)
        watched = Watched(self.view, stage.folder, log, stage.metrics, stage.figures)
        self.view.stage(stage.name, stage.total, stage.unit)
        try:
            return call(command, stage.environment, stage.folder, log, self.lock, watched)
        finally:
            watched()
            self.view.end()


def _lost(what: str) -> dict[str, str]:
    return {"inexact": what} if what else {}


def _inexactly(outcome: Outcome) -> str:
    return f"; not as in one go: {outcome.inexact}" if outcome.inexact else ""


def _to_begin_anew(stage: Stage) -> str:
    return f"to begin anew instead of going on, remove {stage.folder / BEGUN}"


def _how(stage: Stage, begun: Mapping[str, Any], parts: Mapping[str, str], goes_on: bool) -> str:
    """What becomes of the work that an unfinished stage has left, to be put behind the reason to run it."""
    if goes_on:
        return f", goes on{f' (not as in one go: {stage.inexact})' if stage.inexact else ''}"
    changed = differing(parts, begun["parts"])
    because = f"changed since: {', '.join(changed)}" if changed else stage.anew
    return f", begins anew{f' ({because})' if because else ''}"
