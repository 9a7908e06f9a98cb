"""Stages of a pipeline: one command each, skipped while nothing that it depends on has changed.

A stage owns a folder. Its record there is written last, and taken away first: a stage that was killed, or whose output
is gone, is not taken for done.
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
from runners.processes import call, ended, tail_of

RECORD, LOG = "stage.json", "log.txt"
DONE, KEPT, FAILED, BLOCKED, PLANNED = "done", "kept", "failed", "blocked", "planned"
LEFT_OUT = "left out"
"""Not asked for, and not there from an earlier run: nothing went wrong, and nothing can be built on it."""


@dataclass(frozen=True)
class Stage:
    """One command and what it depends on.

    `inputs` are files and folders by content; `options` any further text that the result depends on (a checkout's
    state, versions of an environment); `environment` says where things lie and how to reach them, and changes nothing.
    `outputs` must be there afterwards, a folder with something in it. What lies in `folder` belongs to the stage and is
    removed before the command runs. `before` runs in this process just before the command, and may prepare `folder`.
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
    caches: Sequence[str] = ()
    """Names of files that commands leave in their inputs, as patterns: they are no change of an input."""
    before: Callable[[], None] | None = None
    check: Callable[[], str | None] | None = None
    """Says after the command why its output will not do, or None."""
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
    """Runs stages one after the other in the order given."""

    def __init__(
        self, digests: Digests, say: Callable[[str], None] = print, *, dry: bool = False, lock: int | None = None
    ) -> None:
        self.digests, self.say, self.dry, self.lock = digests, say, dry, lock
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
        self.say(f"    {stage.name}: {why}\n        {stage.shown()}")
        return self._command(stage, parts, key, why)

    def _command(self, stage: Stage, parts: dict[str, str], key: str, why: str) -> Outcome:
        log = stage.folder / LOG
        start = time.monotonic()
        try:
            if stage.folder.exists():
                # The record goes first: a removal that is cut short leaves nothing that looks done.
                (stage.folder / RECORD).unlink(missing_ok=True)
                shutil.rmtree(stage.folder)
            stage.folder.mkdir(parents=True)
            if stage.before is not None:
                stage.before()
            code = call(stage.command, stage.environment, stage.folder, log, self.lock)
        except OSError as error:
            return Outcome(stage, FAILED, f"{error}; {stage.remedy}", time.monotonic() - start, key)
        seconds = time.monotonic() - start
        if code:
            return Outcome(stage, FAILED, f"{ended(code)}\n{tail_of(log)}\n{stage.remedy}", seconds, key)
        missing = [str(path) for path in stage.outputs if not there(path)]
        complaint = f"it ended well but did not write {', '.join(missing)}" if missing else None
        if complaint is None and stage.check is not None:
            complaint = stage.check()
        if complaint:
            return Outcome(stage, FAILED, f"{complaint}\n{tail_of(log)}\n{stage.remedy}", seconds, key)
        known = {"key": key, "parts": parts, "command": stage.shown(), "seconds": seconds, "outputs": listing(stage)}
        write_whole(stage.folder / RECORD, json.dumps(known, indent=1))
        return Outcome(stage, DONE, why, seconds, key)


def _key(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the stage in `folder`, or None where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and {"key", "parts", "seconds", "outputs"} <= record.keys() else None


def reason(record: dict[str, Any] | None, parts: dict[str, str], key: str, stage: Stage) -> str:
    """Why the stage has to run, or the empty string where its record still holds."""
    if record is None:
        return "not finished before" if stage.folder.exists() else "not run before"
    if record["key"] != key:
        changed = sorted(
            name for name in parts.keys() | record["parts"].keys() if parts.get(name) != record["parts"].get(name)
        )
        return f"changed: {', '.join(changed)}"
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
