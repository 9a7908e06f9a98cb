"""One ``apply.py`` at a time on a checkout: an advisory lock that dies with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.errors import GraftError

# What flock answers where the file system cannot lock: NFS without lockd, some FUSE and cluster file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def held(gitdir: Path, command: str | None = None) -> Iterator[None]:
    """Hold the exclusive lock ``<gitdir>/graft/lock``; a second holder fails at once and hears who the first one is.

    Args:
        gitdir: the checkout's git directory.
        command: what to tell a second one; the command line of this process by default.

    Raises:
        GraftError: somebody else holds it, the file system has no locks, or the file cannot be opened.
    """
    path = gitdir / "graft" / "lock"
    fd = _open(path)
    try:
        if not _take(fd, path, wait=False):
            raise GraftError(
                f"another command is at work on this checkout: {_holder(fd)}",
                where=str(path.parent.parent),
                remedy="wait until it ends, or end it; its lock goes with it",
            )
        _sign(fd, command)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextmanager
def turn(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the exclusive lock on the file ``path``, made if need be, after whoever holds it now.

    Args:
        waiting: called once, with who the other one is, when there is somebody to wait for.

    Raises:
        GraftError: the file system has no locks, or the file cannot be opened.
    """
    fd = _open(path)
    try:
        if not _take(fd, path, wait=False):
            waiting(_holder(fd))
            _take(fd, path, wait=True)
        _sign(fd, None)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        # The file stays for ever: removing it would let two processes hold locks on two files of one name.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise GraftError(
            f"the lock cannot be opened: {error.strerror}",
            where=str(path),
            remedy=f"make {path.parent} writable for this user",
        ) from error


def _sign(fd: int, command: str | None) -> None:
    holder = {"pid": os.getpid(), "command": command if command is not None else shlex.join(sys.argv)}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(holder).encode(), 0)


def _take(fd: int, path: Path, *, wait: bool) -> bool:
    """Whether the lock is held now; False when somebody else has it and ``wait`` is not set."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise GraftError(
            f"the file system has no file locks ({error.strerror}), so two commands could write at once",
            where=str(path),
            remedy="put the checkout on a file system with flock: a local disk, or NFS with its lock daemon",
        ) from error
    return True


def _holder(fd: int) -> str:
    try:
        data = json.loads(os.pread(fd, 1 << 16, 0))
        return f"process {data['pid']} ({data['command']})"
    except (ValueError, KeyError, TypeError):
        return "a process that has not yet said its name"  # between its lock and its first byte
