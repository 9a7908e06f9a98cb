"""All-or-nothing writes over a set of files: after a kill at any moment the set is finished or undone.

Every new and every old content is staged and synced below ``<gitdir>/graft/staging``; renaming the journal into place
is the point of no return. From there each step is a rename that can be repeated: a target that is still old is put in
place, one that is new already is left. ``recover`` finishes that way, unless somebody has changed a target meanwhile:
then the journal is renamed to say "back", and what can be restored is restored. Bytes that are neither old nor new are
a user's and are never overwritten.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from graft.errors import BadInput, GraftError, Several
from graft.fsops import DISK, FileSystem, State, digest, observe

Space = Literal["tree", "git"]
_SCHEMA = 1
_FOLDERS = "graft/directories.json"


class _Any(enum.Enum):
    ANY = "any"


ANY: Final = _Any.ANY
"""As ``Write.expect``: whatever is there may be replaced."""


@dataclass(frozen=True)
class Link:
    """As ``Write.expect``: a symbolic link with this target must be there."""

    target: str


@dataclass(frozen=True)
class Write:
    """What one path is to be.

    Args:
        path: posix, relative to the checkout's root or to its git directory.
        content: the bytes; None deletes (or, with ``link``, belongs to a symbolic link).
        mode: the permission bits; None keeps those that are there, or 0o644 for a new file.
        link: make a symbolic link with this target.
        space: whether ``path`` is in the work tree or in the git directory.
        expect: what must be there at commit time: these bytes, nothing (None), a ``Link``, or ``ANY``.
        ours: what is there was put there by graft, so a read-only file or a symbolic link may be replaced.
    """

    path: str
    content: bytes | None = None
    mode: int | None = None
    link: str | None = None
    space: Space = "tree"
    expect: bytes | Link | _Any | None = ANY
    ours: bool = False


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
class _Step:
    space: Space
    path: str
    old: State
    new: State


class _Changed(Exception):
    """A target is neither old nor new, or what was staged for it is gone."""


def commit(root: Path, gitdir: Path, writes: Sequence[Write], *, fs: FileSystem = DISK) -> int:
    """Make every path what its ``Write`` says, or none of them.

    An error is rolled back at once; after a kill or Ctrl-C the next ``recover`` finishes or undoes the set.

    Returns:
        How many files were written or deleted; what is as wanted already is not touched, and with nothing to do not
        even a journal is written.

    Raises:
        BadInput: a path leaves its root, is given twice, or lies below another one.
        GraftError: something else is there than expected, a target must not be replaced, or the disk refused. Nothing
            was changed then; ``Several`` when more than one path is at fault.
    """
    todo = _examine(root, gitdir, writes)
    if not todo:
        return 0
    work = _Set(root, gitdir, fs, secrets.token_hex(8))
    for journal in (work.journal, work.back_journal):
        if os.path.lexists(journal):
            raise GraftError("an earlier set is unfinished", where=str(journal), remedy="recover it first: run again")
    count = len(todo)
    todo += _examine(root, gitdir, _plan_folders(work, todo))
    work.steps = [_Step(write.space, write.path, old, new) for write, old, new in todo]
    try:
        work.stage([write.content for write, _, _ in todo])
    except Exception as error:
        # Nothing but the staging was touched, unless the journal's own rename went through.
        if work.journal.exists():
            raise _undo(work, error) from error
        with contextlib.suppress(OSError):  # a left-over staging is harmless and removed by the next ``recover``
            work.discard()
        raise _refused(error) from error
    try:
        work.forward()
        work.close("finished")
    except Exception as error:
        raise _undo(work, error) from error
    with contextlib.suppress(OSError):  # the set is whole; the next ``recover`` removes what is left
        work.discard()
    return count


def recover(root: Path, gitdir: Path, *, fs: FileSystem = DISK) -> Recovered | None:
    """Finish or undo what an earlier command left; called first by every command, under the lock.

    It may itself be killed at any moment and be called again.

    Returns:
        None when nothing was left.

    Raises:
        GraftError: the journal is damaged, or the disk refused to finish and to undo; the journal stays.
    """
    work = _Set(root, gitdir, fs, "")
    files: tuple[str, ...] = ()
    try:
        if os.path.lexists(work.back_journal):
            work.load(work.back_journal)
        elif os.path.lexists(work.journal):
            work.load(work.journal)
            files = tuple(step.path for step in work.steps if step.path != _FOLDERS)
            try:
                work.forward()
                work.close("finished")
                with contextlib.suppress(OSError):  # the set is whole; the next call removes what is left
                    work.discard()
                return Recovered("finished", files)
            except (OSError, _Changed):
                work.turn()
        else:
            return work.sweep()
        files = tuple(step.path for step in work.steps if step.path != _FOLDERS)
        kept = work.back()
        work.close("undone")
        with contextlib.suppress(OSError):  # as above
            work.discard()
        return Recovered("undone", files, tuple(kept))
    except OSError as error:
        raise GraftError(
            f"an interrupted command can neither be finished nor undone: {error.strerror}",
            where=str(error.filename or work.journal),
            remedy="make room and the files writable, then run again; nothing is lost, the journal stays",
        ) from error


def _undo(work: _Set, cause: Exception) -> GraftError:
    try:
        if os.path.lexists(work.journal):
            work.turn()
        kept = work.back()
        work.close("undone")
    except OSError as error:
        return GraftError(
            f"writing failed ({cause}), and so did undoing it ({error})",
            where=str(work.journal),
            remedy="make room and the files writable, then run again: the next command finishes or undoes the set",
        )
    with contextlib.suppress(OSError):  # harmless, and removed by the next ``recover``
        work.discard()
    refusal = _refused(cause)
    if kept:
        refusal.remedy += f"; changed meanwhile and left as they are: {', '.join(kept)}"
    return refusal


def _refused(cause: Exception) -> GraftError:
    if isinstance(cause, GraftError):
        return cause
    if isinstance(cause, OSError):
        where = str(cause.filename2 or cause.filename or "")
        remedy = "make room and the place writable, then run again; nothing was changed"
        return GraftError(f"cannot be written: {cause.strerror}", where=where, remedy=remedy)
    if isinstance(cause, _Changed):
        return GraftError("changed while graft wrote", where=str(cause), remedy="run again; the set was undone")
    raise cause  # a fault of this program: shown as what it is


@dataclass
class _Set:
    """One set of files on its way, and where everything of it lies."""

    root: Path
    gitdir: Path
    fs: FileSystem
    txid: str
    steps: list[_Step] = field(default_factory=list)
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
                    raise _Changed(step.path)
                self._make(self.staging / f"{number}.old", step.old, content_now)
            self._make(self.staging / f"{number}.new", step.new, content or b"")
        body = {
            "schema": _SCHEMA,
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
            if body["schema"] != _SCHEMA:
                raise ValueError(f"schema {body['schema']} is not known")
            self.txid = body["txid"]
            self.steps = [
                _Step(step["space"], step["path"], State(**step["old"]), State(**step["new"])) for step in body["steps"]
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
            _inside(self.root if step.space == "tree" else self.gitdir, self.gitdir, step.space, step.path)

    def forward(self) -> None:
        """Finish the set. Raises _Changed before it touches anything when a target is no longer old or new."""
        for number, step in enumerate(self.steps):
            now = observe(self.at(step.space, step.path))
            if now != step.new and (now != step.old or not self._staged(number, "new", step.new)):
                raise _Changed(step.path)
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
            except _Changed:
                kept.append(step.path)
        self._clean_temps()
        for space, path in reversed(self.mkdirs):
            self._rmdir(self.at(space, path))
        return sorted(kept)

    def _put(self, number: int, step: _Step, which: str, before: State, after: State) -> None:
        target = self.at(step.space, step.path)
        now = observe(target)
        if now == after:
            return
        if now != before or not self._staged(number, which, after):
            raise _Changed(step.path)
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

    def _temp(self, number: int, step: _Step) -> Path:
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


def _examine(root: Path, gitdir: Path, writes: Sequence[Write]) -> list[tuple[Write, State, State]]:
    """The writes that change something, each with what is there and what will be; raises for all that must not be."""
    errors: list[GraftError] = []
    todo: list[tuple[Write, State, State]] = []
    seen: dict[Path, str] = {}
    for write in writes:
        base = root if write.space == "tree" else gitdir
        try:
            target = _inside(base, gitdir, write.space, write.path)
            if target in seen:
                raise BadInput(f"the same file as {seen[target]}, written twice in one set", where=write.path)
            seen[target] = write.path
            old = observe(base / write.path)
            new = _wanted(write, old)
            _as_expected(write, old)
            if old != new:
                _permitted(write, base / write.path, old, new)
                todo.append((write, old, new))
        except OSError as error:
            errors.append(GraftError(f"cannot be read: {error.strerror}", where=write.path, remedy="make it readable"))
        except GraftError as error:
            errors.append(error)
    for target, path in seen.items():
        errors += [
            BadInput(f"lies below {seen[up]}, which is a file", where=path) for up in target.parents if up in seen
        ]
    if errors:
        raise errors[0] if len(errors) == 1 else Several(errors)
    return todo


def _inside(base: Path, gitdir: Path, space: Space, path: str) -> Path:
    """The real place of ``path``, its parents' links resolved; raises when that is outside."""
    parts = PurePosixPath(path).parts
    hidden = space == "tree" and any(part.lower() == ".git" for part in parts)
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or str(PurePosixPath(path)) != path or hidden:
        raise BadInput("no path of a file inside the checkout", where=repr(path))
    if space == "git" and parts[:2] in (("graft", "staging"), ("graft", "journal.json"), ("graft", "lock")):
        raise BadInput("belongs to graft's own bookkeeping", where=path)
    parent = Path(os.path.realpath((base / path).parent))
    home, git = Path(os.path.realpath(base)), Path(os.path.realpath(gitdir))
    if not parent.is_relative_to(home) or (space == "tree" and parent.is_relative_to(git)):
        raise GraftError(
            f"its directory leads out of the checkout, to {parent}",
            where=path,
            remedy="replace the link by a directory",
        )
    return parent / parts[-1]


def _wanted(write: Write, old: State) -> State:
    if write.link is not None:
        if write.content is not None:
            raise BadInput("has both a content and a link target", where=write.path)
        return State("link", link=write.link)
    if write.content is None:
        return State()
    mode = write.mode if write.mode is not None else old.mode if old.kind == "file" else 0o644
    return State("file", digest(write.content), mode)


def _as_expected(write: Write, old: State) -> None:
    if isinstance(write.expect, _Any):
        return
    if write.expect is None:
        wanted = State()
    elif isinstance(write.expect, Link):
        wanted = State("link", link=write.expect.target)
    else:
        wanted = replace(old, kind="file", sha256=digest(write.expect))
    if old != wanted:
        raise GraftError("changed since it was read", where=write.path, remedy="run again; nothing was written")


def _permitted(write: Write, target: Path, old: State, new: State) -> None:
    def refuse(what: str, remedy: str) -> GraftError:
        return GraftError(what, where=write.path, remedy=remedy + "; nothing was written")

    if old.kind in ("dir", "other"):
        raise refuse("a directory or special file is where a file should be", "move it away")
    if old.kind == "link" and not write.ours:
        raise refuse(f"a symbolic link to {old.link} that graft did not make", "replace it by the file it points to")
    if old.kind == "file" and not old.mode & 0o200 and not write.ours:
        raise refuse("read-only, so somebody wants it kept as it is", f"chmod u+w {write.path} if graft may write it")
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise refuse(f"{parent.name} is a file, not a directory", "move that file away")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise refuse(f"the directory {parent} is not writable", f"chmod u+wx {parent}")


def _plan_folders(work: _Set, todo: list[tuple[Write, State, State]]) -> list[Write]:
    """Fill in the directories to make and to remove; returns the writes that this brings along.

    They are the list of the directories that graft made, and the deletion of the interpreter's cache of deleted modules
    where it alone would keep such a directory alive.
    """
    caches: list[str] = []
    made = _read_folders(work.gitdir / _FOLDERS)
    gone = {write.path for write, _, new in todo if write.space == "tree" and new.kind == "none"}
    needed: dict[tuple[Space, str], None] = {}
    for write, _, new in todo:
        if new.kind != "none":
            ups = [str(up) for up in PurePosixPath(write.path).parents if str(up) != "."]
            needed.update(((write.space, up), None) for up in reversed(ups))
    work.mkdirs = [(space, path) for space, path in needed if not work.at(space, path).is_dir()]
    for path in sorted(made, key=lambda path: (-path.count("/"), path)):
        place = work.root / path
        if place.is_symlink() or not place.is_dir():
            made.discard(path)
        elif ("tree", path) not in needed:
            names = {f"{path}/{name}" for name in os.listdir(place)} - gone - set(work.rmdirs)
            derived = _byte_code(work.root, path, gone) if names == {f"{path}/__pycache__"} else []
            if not names or derived:
                caches += derived
                work.rmdirs += [f"{path}/__pycache__", path] if derived else [path]
                made.discard(path)
    made |= {path for space, path in work.mkdirs if space == "tree"}
    text = json.dumps({"schema": _SCHEMA, "made": sorted(made)}, indent=1) + "\n"
    return [
        Write(_FOLDERS, text.encode() if made else None, space="git"),
        *(Write(path, None, ours=True) for path in caches),
    ]


def _byte_code(root: Path, folder: str, gone: set[str]) -> list[str]:
    """The interpreter's cache of the modules that go from ``folder``; empty when it holds anything else."""
    names = os.listdir(root / folder / "__pycache__")
    derived = all(name.endswith(".pyc") and f"{folder}/{name.split('.')[0]}.py" in gone for name in names)
    return [f"{folder}/__pycache__/{name}" for name in sorted(names)] if derived else []


def _read_folders(path: Path) -> set[str]:
    try:
        data = json.loads(path.read_bytes())
        return {str(name) for name in data["made"]}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "delete it; directories that graft made then stay when their last file goes"
        raise GraftError(f"the list of directories is damaged ({error})", where=str(path), remedy=remedy) from error
