"""What one path is to be, and whether that may be written: checked for a whole set before anything is touched."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from graft.errors import BadInput, GraftError, Several
from graft.fsops import State, digest, observe

Space = Literal["tree", "git"]


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


def examine(root: Path, gitdir: Path, writes: Sequence[Write]) -> list[tuple[Write, State, State]]:
    """The writes that change something, each with what is there and what will be; raises for all that must not be."""
    errors: list[GraftError] = []
    todo: list[tuple[Write, State, State]] = []
    seen: dict[Path, str] = {}
    for write in writes:
        base = root if write.space == "tree" else gitdir
        try:
            target = inside(base, gitdir, write.space, write.path)
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


def inside(base: Path, gitdir: Path, space: Space, path: str) -> Path:
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
