"""One ``apply.py`` at a time on a checkout: an advisory lock that dies with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator
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
    try:
        path.parent.mkdir(exist_ok=True)
        # The file stays for ever: removing it would let two processes hold locks on two files of one name.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise GraftError(
            f"the lock cannot be opened: {error.strerror}",
            where=str(path),
            remedy="make the checkout's git directory writable for this user",
        ) from error
    try:
        _take(fd, path)
        holder = {"pid": os.getpid(), "command": command if command is not None else shlex.join(sys.argv)}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _take(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise GraftError(
            f"another command is at work on this checkout: {_holder(fd)}",
            where=str(path.parent.parent),
            remedy="wait until it ends, or end it; its lock goes with it",
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise GraftError(
            f"the file system has no file locks ({error.strerror}), so two commands could write at once",
            where=str(path),
            remedy="put the checkout on a file system with flock: a local disk, or NFS with its lock daemon",
        ) from error


def _holder(fd: int) -> str:
    try:
        data = json.loads(os.pread(fd, 1 << 16, 0))
        return f"process {data['pid']} ({data['command']})"
    except (ValueError, KeyError, TypeError):
        return "a process that has not yet said its name"  # between its lock and its first byte
