"""The disk as a process would leave it that dies at any one of its calls to ``graft.fsops``."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.fsops import FileSystem
from tests.proofs.disk import Entry, take

CALLS = ("create", "chmod", "replace", "unlink", "mkdir", "rmdir", "symlink", "fsync", "fsync_dir")


@dataclass(frozen=True)
class Point:
    """One call: its number, its name (``create, torn`` for one that got half of its bytes out) and the disk then."""

    number: int
    kind: str
    disk: dict[str, Entry]


@contextlib.contextmanager
def _watched(at: Callable[[int, str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls ``at`` with number, name and arguments of every call, just before it is made."""
    count = 0
    real = {name: getattr(FileSystem, name) for name in CALLS}

    def watch(name: str) -> Callable[..., None]:
        def call(self: FileSystem, *args: Any) -> None:
            nonlocal count
            count += 1
            at(count, name, args)
            real[name](self, *args)

        return call

    for name in CALLS:
        setattr(FileSystem, name, watch(name))
    try:
        yield
    finally:
        for name in CALLS:
            setattr(FileSystem, name, real[name])


@dataclass
class Recorded:
    calls: int = 0
    points: list[Point] = field(default_factory=list)


@contextlib.contextmanager
def recorded(root: Path, *, only: int = 0) -> Iterator[Recorded]:
    """Takes the disk below ``root`` just before every call (or before call ``only``), and amid each write."""
    found = Recorded()

    def at(number: int, name: str, args: tuple[Any, ...]) -> None:
        found.calls = number
        if only and number != only:
            return
        disk = take(root)
        found.points.append(Point(number, name, disk))
        if name == "create":
            path, data = args
            half = ("file", 0o600, bytes(data[: len(data) // 2]))
            found.points.append(Point(number, "create, torn", {**disk, path.relative_to(root).as_posix(): half}))

    with _watched(at):
        yield found


def killed(number: int, command: Callable[[], object]) -> bool:
    """Runs ``command`` in a process of its own that ends itself with SIGKILL before call ``number``.

    Returns:
        Whether it died there; False when it came to its end.
    """

    def at(now: int, name: str, args: tuple[Any, ...]) -> None:
        if now == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            with _watched(at):
                command()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
