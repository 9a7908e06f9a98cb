"""All-or-nothing writes over a set of files: after a kill at any moment the set is finished or undone.

Every new and every old content is staged and synced below ``<gitdir>/graft/staging``; renaming the journal into place
is the point of no return. From there each step is a rename that can be repeated: a target that is still old is put in
place, one that is new already is left. ``recover`` finishes that way, unless somebody has changed a target meanwhile:
then the journal is renamed to say "back", and what can be restored is restored. Bytes that are neither old nor new are
a user's and are never overwritten.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from graft.errors import GraftError
from graft.fsops import DISK, FileSystem, State
from graft.journal import SCHEMA, Changed, Recovered, Set, Step
from graft.writes import ANY, Link, Space, Write, examine

__all__ = ["ANY", "Link", "Recovered", "Write", "commit", "nested", "recover"]

_FOLDERS = "graft/directories.json"
_NONE: Mapping[str, str] = MappingProxyType({})


def commit(
    root: Path, gitdir: Path, writes: Sequence[Write], *, rooms: Mapping[str, str] = _NONE, fs: FileSystem = DISK
) -> int:
    """Make every path what its ``Write`` says, or none of them.

    An error is rolled back at once; after a kill or Ctrl-C the next ``recover`` finishes or undoes the set.

    Args:
        rooms: checkouts inside ``root`` and their git directories inside ``gitdir``, by relative path: what is made in
            one is remembered there, so that a set of its own takes it away again.

    Returns:
        How many files were written or deleted; what is as wanted already is not touched, and with nothing to do not
        even a journal is written.

    Raises:
        BadInput: a path leaves its root, is given twice, or lies below another one.
        GraftError: something else is there than expected, a target must not be replaced, or the disk refused. Nothing
            was changed then; ``Several`` when more than one path is at fault.
    """
    todo = examine(root, gitdir, writes)
    if not todo:
        return 0
    work = Set(root, gitdir, fs, secrets.token_hex(8))
    for journal in (work.journal, work.back_journal):
        if os.path.lexists(journal):
            raise GraftError("an earlier set is unfinished", where=str(journal), remedy="recover it first: run again")
    count = len(todo)
    todo += examine(root, gitdir, _plan_folders(work, todo, rooms))
    work.steps = [Step(write.space, write.path, old, new) for write, old, new in todo]
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


def nested(writes: Sequence[Write], tree: str, git: str) -> list[Write]:
    """A checkout's writes as those of the project that holds it at ``tree``, and its git directory at ``git``."""
    return [replace(write, path=f"{tree if write.space == 'tree' else git}/{write.path}") for write in writes]


def recover(root: Path, gitdir: Path, *, fs: FileSystem = DISK) -> Recovered | None:
    """Finish or undo what an earlier command left; called first by every command, under the lock.

    It may itself be killed at any moment and be called again.

    Returns:
        None when nothing was left.

    Raises:
        GraftError: the journal is damaged, or the disk refused to finish and to undo; the journal stays.
    """
    work = Set(root, gitdir, fs, "")
    files: tuple[str, ...] = ()
    try:
        if os.path.lexists(work.back_journal):
            work.load(work.back_journal)
        elif os.path.lexists(work.journal):
            work.load(work.journal)
            files = tuple(step.path for step in work.steps if not step.path.endswith(_FOLDERS))
            try:
                work.forward()
                work.close("finished")
                with contextlib.suppress(OSError):  # the set is whole; the next call removes what is left
                    work.discard()
                return Recovered("finished", files)
            except (OSError, Changed):
                work.turn()
        else:
            return work.sweep()
        files = tuple(step.path for step in work.steps if not step.path.endswith(_FOLDERS))
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


def _undo(work: Set, cause: Exception) -> GraftError:
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
    if isinstance(cause, Changed):
        return GraftError("changed while graft wrote", where=str(cause), remedy="run again; the set was undone")
    raise cause  # a fault of this program: shown as what it is


def _plan_folders(work: Set, todo: list[tuple[Write, State, State]], rooms: Mapping[str, str]) -> list[Write]:
    """Fill in the directories to make and to remove; returns the writes that this brings along.

    They are the lists of the directories that graft made, and the deletion of the interpreter's cache of deleted
    modules where it alone would keep such a directory alive.
    """
    caches: list[str] = []
    lists = {"": _FOLDERS, **{f"{tree}/": f"{git}/{_FOLDERS}" for tree, git in rooms.items()}}
    made = {room + path for room, file in lists.items() for path in _read_folders(work.gitdir / file)}
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
    own: dict[str, list[str]] = {room: [] for room in lists}
    for path in sorted(made):
        room = max((room for room in lists if path.startswith(room)), key=len)
        own[room].append(path[len(room) :])
    return [
        *(Write(lists[room], _folders(paths), space="git") for room, paths in own.items()),
        *(Write(path, None, ours=True) for path in caches),
    ]


def _folders(made: Sequence[str]) -> bytes | None:
    return (json.dumps({"schema": SCHEMA, "made": made}, indent=1) + "\n").encode() if made else None


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
