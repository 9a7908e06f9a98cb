"""A set of writes on its way: staged, journalled, put in place or taken back; a step can be repeated after a kill."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from graft.errors import GraftError
from graft.fsops import FileSystem, State, digest, observe
from graft.writes import Space, inside

SCHEMA = 1


@dataclass(frozen=True)
class Recovered:
    """What became of a set that an earlier command left unfinished.

    ``files`` are the paths of the set, ``kept`` those of them that were changed since by somebody else and were left
    alone. ``outcome`` "undone" with ``kept`` means that the rest was undone.
    """

    outcome: Literal["finished", "undone"]
    files: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"an interrupted command was {self.outcome} ({len(self.files)} files)"
        return text + (f"; changed since and left as they are: {', '.join(self.kept)}" if self.kept else "")


@dataclass(frozen=True)
class Step:
    space: Space
    path: str
    old: State
    new: State


class Changed(Exception):
    """A target is neither old nor new, or what was staged for it is gone."""


@dataclass
class Set:
    """One set of files on its way, and where everything of it lies."""

    root: Path
    gitdir: Path
    fs: FileSystem
    txid: str
    steps: list[Step] = field(default_factory=list)
    mkdirs: list[tuple[Space, str]] = field(default_factory=list)  # parents before children
    rmdirs: list[str] = field(default_factory=list)  # children before parents, in the work tree

    def __post_init__(self) -> None:
        self.home = self.gitdir / "graft"
        self.journal = self.home / "journal.json"
        self.back_journal = self.home / "journal.back.json"

    @property
    def staging(self) -> Path:
        return self.home / "staging" / self.txid

    def at(self, space: Space, path: str) -> Path:
        return (self.root if space == "tree" else self.gitdir) / path

    def stage(self, contents: Sequence[bytes | None]) -> None:
        """Put new and old contents and the journal on the disk; the last rename is the point of no return."""
        fresh = [place for place in (self.home, self.home / "staging", self.staging) if not place.is_dir()]
        for place in fresh:
            self.fs.mkdir(place)
        for number, (step, content) in enumerate(zip(self.steps, contents, strict=True)):
            if step.old.kind != "none":
                target = self.at(step.space, step.path)
                content_now = b"" if step.old.kind == "link" else target.read_bytes()
                if step.old.kind == "file" and digest(content_now) != step.old.sha256:
                    raise Changed(step.path)
                self._make(self.staging / f"{number}.old", step.old, content_now)
            self._make(self.staging / f"{number}.new", step.new, content or b"")
        body = {
            "schema": SCHEMA,
            "txid": self.txid,
            "steps": [asdict(step) for step in self.steps],
            "mkdirs": self.mkdirs,
            "rmdirs": self.rmdirs,
        }
        text = json.dumps(body, sort_keys=True)
        draft = self.staging / "journal"
        self.fs.create(draft, json.dumps({"sha256": digest(text.encode()), "set": text}).encode())
        self.fs.fsync(draft)
        for place in {self.staging, *(place.parent for place in fresh)}:
            self.fs.fsync_dir(place)
        self.fs.replace(draft, self.journal)
        self.fs.fsync_dir(self.home)

    def _make(self, path: Path, state: State, content: bytes) -> None:
        if state.kind == "link":
            self.fs.symlink(state.link, path)
        elif state.kind == "file":
            self.fs.create(path, content)
            self.fs.chmod(path, state.mode)
            self.fs.fsync(path)

    def load(self, journal: Path) -> None:
        try:
            outer = json.loads(journal.read_bytes())
            if digest(outer["set"].encode()) != outer["sha256"]:
                raise ValueError("its sum does not match")
            body = json.loads(outer["set"])
            if body["schema"] != SCHEMA:
                raise ValueError(f"schema {body['schema']} is not known")
            self.txid = body["txid"]
            self.steps = [
                Step(step["space"], step["path"], State(**step["old"]), State(**step["new"])) for step in body["steps"]
            ]
            self.mkdirs = [(space, path) for space, path in body["mkdirs"]]
            self.rmdirs = body["rmdirs"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraftError(
                f"the journal of an interrupted command is damaged ({error})",
                where=str(journal),
                remedy=f"look at the checkout (git status) and at {self.home / 'staging'}, where N.old is what was "
                "there and N.new what was to come; put right what is wrong, then delete the journal",
            ) from error
        for step in self.steps:
            inside(self.root if step.space == "tree" else self.gitdir, self.gitdir, step.space, step.path)

    def forward(self) -> None:
        """Finish the set. Raises Changed before it touches anything when a target is no longer old or new."""
        for number, step in enumerate(self.steps):
            now = observe(self.at(step.space, step.path))
            if now != step.new and (now != step.old or not self._staged(number, "new", step.new)):
                raise Changed(step.path)
        for space, path in self.mkdirs:
            if not self.at(space, path).is_dir():
                self.fs.mkdir(self.at(space, path))
        for number, step in enumerate(self.steps):
            self._put(number, step, "new", step.old, step.new)
        for path in self.rmdirs:
            self._rmdir(self.at("tree", path))

    def back(self) -> list[str]:
        """Undo the set as far as nobody else has written there; returns what was left alone."""
        kept = []
        for path in reversed(self.rmdirs):
            if not self.at("tree", path).is_dir():
                self.fs.mkdir(self.at("tree", path))
        for number, step in reversed(list(enumerate(self.steps))):
            try:
                self._put(number, step, "old", step.new, step.old)
            except Changed:
                kept.append(step.path)
        self._clean_temps()
        for space, path in reversed(self.mkdirs):
            self._rmdir(self.at(space, path))
        return sorted(kept)

    def _put(self, number: int, step: Step, which: str, before: State, after: State) -> None:
        target = self.at(step.space, step.path)
        now = observe(target)
        if now == after:
            return
        if now != before or not self._staged(number, which, after):
            raise Changed(step.path)
        if after.kind == "none":
            self.fs.unlink(target)
            return
        staged = self.staging / f"{number}.{which}"
        try:
            self.fs.replace(staged, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The git directory is on another file system: only a rename beside the target is atomic.
            temp = self._temp(number, step)
            if os.path.lexists(temp):
                self.fs.unlink(temp)
            self._make(temp, after, b"" if after.kind == "link" else staged.read_bytes())
            self.fs.replace(temp, target)

    def _staged(self, number: int, which: str, state: State) -> bool:
        return state.kind == "none" or observe(self.staging / f"{number}.{which}") == state

    def _temp(self, number: int, step: Step) -> Path:
        return self.at(step.space, step.path).parent / f".graft-{self.txid}-{number}.tmp"

    def _clean_temps(self) -> None:
        for number, step in enumerate(self.steps):
            if os.path.lexists(self._temp(number, step)):
                self.fs.unlink(self._temp(number, step))

    def _rmdir(self, place: Path) -> None:
        try:
            self.fs.rmdir(place)
        except OSError as error:
            # A directory that has got something in it belongs to whoever put that there.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                raise

    def turn(self) -> None:
        """From now on, over any number of kills, this set goes back. A rename, so that a full disk cannot stop it."""
        self.fs.replace(self.journal, self.back_journal)
        self.fs.fsync_dir(self.home)

    def close(self, mark: Literal["finished", "undone"]) -> None:
        """Sync the targets' directories, then take the journal away: the set is whole."""
        self._clean_temps()
        places = {self.at(step.space, step.path).parent for step in self.steps}
        places |= {self.at(space, path).parent for space, path in self.mkdirs}
        places |= {self.at("tree", path).parent for path in self.rmdirs}
        for place in sorted(places):
            if place.is_dir():
                self.fs.fsync_dir(place)
        journal = self.journal if mark == "finished" else self.back_journal
        # A rename, not a removal: a kill right after it must not make ``recover`` report the wrong outcome.
        if os.path.lexists(journal):
            self.fs.replace(journal, self.staging / mark)
        # The set is whole now, whatever this says: a journal that a power cut brings back finds nothing left to do.
        with contextlib.suppress(OSError):
            self.fs.fsync_dir(self.home)

    def discard(self) -> None:
        """Remove the staging; the mark of ``close`` goes last."""
        if self.staging.is_dir():
            for item in sorted(
                self.staging.iterdir(), key=lambda item: (item.name in ("finished", "undone"), item.name)
            ):
                self.fs.unlink(item)
            self.fs.rmdir(self.staging)

    def sweep(self) -> Recovered | None:
        """Remove stagings that no journal speaks of: of sets that never began, or that are whole."""
        found: Recovered | None = None
        folder = self.home / "staging"
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            self.txid = place.name
            if (place / "finished").exists():
                found = Recovered("finished")
            elif any(place.iterdir()):
                found = Recovered("undone")
            self.discard()
        return found
