"""Stages of a pipeline: one command each, skipped while nothing that it depends on has changed.

A stage owns a folder. Its record there is written last, and taken away first: a stage that was killed, or whose output
is gone, is not taken for done. Another record says what it was begun with: where nothing of that has changed since, a
stage that can go on does, and any other begins anew in an empty folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.digests import Digests, files_below, write_whole
from runners.places import Refused, need, size_of
from runners.processes import call, ended, tail_of
from runners.progress import View
from runners.stage_progress import Watched

RECORD, LOG = "stage.json", "log.txt"
BEGUN = "begun.json"
"""What an unfinished stage was begun with; gone once it is done, or has ended with what will not do."""
DONE, KEPT, FAILED, BLOCKED, PLANNED = "done", "kept", "failed", "blocked", "planned"
LEFT_OUT = "left out"
"""Not asked for, and not there from an earlier run: nothing went wrong, and nothing can be built on it."""


@dataclass(frozen=True)
class Stage:
    """One command and what it depends on.

    `inputs` are files and folders by content; `options` any further text that the result depends on (a checkout's
    state, versions of an environment); `environment` says where things lie and how to reach them, and changes nothing.
    `outputs` must be there afterwards, a folder with something in it. What lies in `folder` belongs to the stage and is
    removed before the command runs, unless the stage goes on (`resume`). `before` runs in this process just before the
    command that begins it, and may prepare `folder`.
    """

    name: str
    folder: Path
    command: Sequence[str]
    outputs: Sequence[Path]
    kind: str = ""
    """The step of the pipeline that it belongs to."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    space: int | None = None
    """Bytes that it writes, about; it does not begin where its disk has no room for them."""
    caches: Sequence[str] = ()
    """Names of files that commands leave in their inputs, as patterns: they are no change of an input."""
    before: Callable[[], None] | None = None
    check: Callable[[], str | None] | None = None
    """Says after the command why its output will not do, or None."""
    resume: Callable[[], Sequence[str] | None] | None = None
    """Asked where the stage was begun with just what it depends on now, and was not finished: the command that goes on
    from what is there, to the same outputs as `command` gives in one go, or None to begin anew."""
    anew: str = ""
    """Why it begins anew when it was interrupted: said to who waits for it."""
    metrics: Sequence[str] = ()
    """Patterns of the metrics files below `folder`, as runners/supervise/metrics reads them: shown while it runs."""
    total: int | None = None
    """Steps (episodes, ...) that it will take, where that is known beforehand."""
    figures: Callable[[], Mapping[str, float]] | None = None
    """What else can be shown while it runs: `step`, `total` and metrics by name, empty as long as nothing is known."""
    remedy: str = "mend what the log says and run the same command again: stages that are done are kept"

    def shown(self) -> str:
        """The command as a shell would take it."""
        return shlex.join(self.command)

    def exported(self) -> list[str]:
        """The environment that the command is given, as a shell would take it."""
        return [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: `state` is done, kept, failed, blocked or planned; `why` says why it ran or did not."""

    stage: Stage
    state: str
    why: str = ""
    seconds: float = 0.0
    key: str = ""

    @property
    def good(self) -> bool:
        return self.state in (DONE, KEPT)


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
            self.say(f"    {stage.name}: kept ({outcome.seconds:.0f} s then)")
        elif outcome.state == DONE:
            self.say(f"    {stage.name}: done in {outcome.seconds:.0f} s")
        elif not outcome.good and outcome.state != PLANNED:
            self.say(f"    {stage.name}: {outcome.state}: {outcome.why}")
        return outcome

    def holds(self, stage: Stage) -> bool:
        """Whether the stage's record holds: it would be kept."""
        try:
            parts = self.parts(stage)
        except UnreadableInput:
            return False
        return not reason(read_record(stage.folder), parts, _key(parts), stage)

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
        key = _key(parts)
        record = read_record(stage.folder)
        why = reason(record, parts, key, stage)
        if record is not None and not why:
            return Outcome(stage, KEPT, "nothing has changed", float(record["seconds"]), key)
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
        start, spent, attempts = time.monotonic(), 0.0, 1
        try:
            need(stage.folder, lacks(stage), stage.name)
            if begun is not None and going_on is not None:
                remedy = f"{remedy}; {_to_begin_anew(stage)}"
                spent, attempts = begun["spent"] + _seconds_of(log, begun["at"]), begun["attempts"] + 1
            else:
                self._empty(stage)
            known = {"key": key, "parts": parts, "at": time.time(), "spent": spent, "attempts": attempts}
            write_whole(stage.folder / BEGUN, json.dumps(known, indent=1))
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
        write_whole(stage.folder / RECORD, json.dumps(known | {"outputs": listing(stage)}, indent=1))
        (stage.folder / BEGUN).unlink()
        return Outcome(stage, DONE, why, seconds, key)

    def _empty(self, stage: Stage) -> None:
        if stage.folder.exists():
            # The records go first: a removal that is cut short leaves nothing that looks done, or could go on.
            (stage.folder / RECORD).unlink(missing_ok=True)
            (stage.folder / BEGUN).unlink(missing_ok=True)
            shutil.rmtree(stage.folder)
        stage.folder.mkdir(parents=True)
        if stage.before is not None:
            stage.before()

    def _call(self, stage: Stage, command: Sequence[str], log: Path) -> int:
        if self.view is None:
            return call(command, stage.environment, stage.folder, log, self.lock)
        watched = Watched(self.view, stage.folder, log, stage.metrics, stage.figures)
        self.view.stage(stage.name, stage.total)
        try:
            return call(command, stage.environment, stage.folder, log, self.lock, watched)
        finally:
            watched()
            self.view.end()


def lacks(stage: Stage) -> int:
    """Bytes of room that the stage needs beside what is in its folder, removed or gone on from; 0: nothing is known."""
    there = size_of(stage.folder) if stage.space and stage.folder.is_dir() else 0
    return max(0, (stage.space or 0) - there)


def need_room(engine: Engine, stages: Sequence[Stage]) -> None:
    """Refuses a run whose `stages`, without those that would be kept, find no room on their disk together.

    Raises Refused.
    """
    todo = [stage for stage in stages if stage.space and not engine.holds(stage)]
    if todo:
        need(todo[0].folder, sum(map(lacks, todo)), f"the run ({', '.join(stage.name for stage in todo)})")


def _to_begin_anew(stage: Stage) -> str:
    return f"to begin anew instead of going on, remove {stage.folder / BEGUN}"


def _how(stage: Stage, begun: Mapping[str, Any], parts: Mapping[str, str], goes_on: bool) -> str:
    """What becomes of the work that an unfinished stage has left, to be put behind the reason to run it."""
    if goes_on:
        return ", goes on"
    changed = differing(parts, begun["parts"])
    because = f"changed since: {', '.join(changed)}" if changed else stage.anew
    return f", begins anew{f' ({because})' if because else ''}"


def differing(parts: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Names of the parts that are not what they were."""
    return sorted(name for name in parts.keys() | before.keys() if parts.get(name) != before.get(name))


def _seconds_of(log: Path, begun: float) -> float:
    """How long a command ran that began at `begun` (seconds since 1970) and was killed: until it said its last."""
    return max(0.0, log.stat().st_mtime - begun) if log.exists() else 0.0


def _key(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the stage in `folder`, or None where there is none that can be read."""
    return _read(folder / RECORD, {"key", "parts", "seconds", "outputs"})


def read_begun(folder: Path) -> dict[str, Any] | None:
    """What the unfinished stage in `folder` was begun with, or None where that is not known."""
    return _read(folder / BEGUN, {"key", "parts", "at", "spent", "attempts"})


def _read(path: Path, names: set[str]) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and names <= record.keys() else None


def reason(record: dict[str, Any] | None, parts: dict[str, str], key: str, stage: Stage) -> str:
    """Why the stage has to run, or the empty string where its record still holds."""
    if record is None:
        return "not finished before" if stage.folder.exists() else "not run before"
    if record["key"] != key:
        return f"changed: {', '.join(differing(parts, record['parts']))}"
    gone = [name for name, size in record["outputs"].items() if not _same_size(stage.folder / name, size)]
    gone += [str(path) for path in stage.outputs if not there(path)]
    return f"output gone or cut short: {', '.join(gone[:3])}" if gone else ""


def _same_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def there(path: Path) -> bool:
    """Whether `path` is a file, or a folder that holds one."""
    return path.is_file() or (path.is_dir() and bool(files_below(path)))


def listing(stage: Stage) -> dict[str, int]:
    """Size in bytes of every file of the stage's outputs, by name relative to its folder."""
    found = {}
    for output in stage.outputs:
        for path in [output] if output.is_file() else [output / name for name in files_below(output)]:
            found[os.path.relpath(path, stage.folder)] = path.stat().st_size
    return found
