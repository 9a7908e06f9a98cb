"""The only door to the file system for all-or-nothing writes, so narrow that a test can count and kill at each call."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def digest(data: bytes) -> str:
    """The sha256 of ``data`` in hexadecimal, the name by which graft knows a content."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class State:
    """What is at a path: nothing, a regular file, a symbolic link (never followed), a directory or something else.

    ``sha256`` and ``mode`` (permission bits) belong to a file, ``link`` (its target) to a symbolic link.
    """

    kind: Literal["none", "file", "link", "dir", "other"] = "none"
    sha256: str = ""
    mode: int = 0
    link: str = ""


def observe(path: Path) -> State:
    """Say what is at ``path`` now; a parent that is missing or no directory counts as nothing. Raises OSError."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return State()
    if stat.S_ISREG(info.st_mode):
        return State("file", digest(path.read_bytes()), stat.S_IMODE(info.st_mode))
    if stat.S_ISLNK(info.st_mode):
        return State("link", link=os.readlink(path))
    return State("dir" if stat.S_ISDIR(info.st_mode) else "other")


class FileSystem:
    """Every call that changes the disk. One method is one point at which a process can die. All raise OSError."""

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file, readable by its owner only until ``chmod``; a file that exists is an error."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def chmod(self, path: Path, mode: int) -> None:
        os.chmod(path, mode)

    def fsync(self, path: Path) -> None:
        """Bring a file's bytes and mode to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def fsync_dir(self, path: Path) -> None:
        """Bring a directory's names to the disk, where the file system knows such a thing."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network and FUSE file systems have no fsync for directories; a rename there is as durable as it gets.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def symlink(self, link: str, path: Path) -> None:
        os.symlink(link, path)


DISK = FileSystem()
