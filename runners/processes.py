"""Commands as processes: one log each, ended with all that they started, and never two runs in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from runners import orphans
from runners.orphans import adopt_orphans

__all__ = ["Busy", "adopt_orphans", "call", "end_tree", "ended", "sole", "start", "tail_of"]

TAIL = 25
"""Lines of a failed command's log that are shown."""
LOOK = 1.0
"""Seconds between two looks at a running command."""
GRACE = 3.0
"""Seconds that is left to what a command that ended well has not waited for, as wandb's writer of offline files."""


def ended(code: int) -> str:
    """An exit code of `call` in words."""
    if code < 0:
        return f"the command was ended by {signal.Signals(-code).name}"
    return f"the command ended with exit code {code}"


def tail_of(log: Path) -> str:
    """The last lines of a log, progress bars cut to their last state, and where the rest is."""
    if not log.exists():
        return f"(no log at {log})"
    lines = [
        line.rstrip("\r").rsplit("\r", 1)[-1] for line in log.read_text(encoding="utf-8", errors="replace").split("\n")
    ]
    kept = [line for line in lines if line.strip()][-TAIL:]
    return "\n".join([f"--- the end of {log}", *kept, "---"])


_running: dict[int, orphans.Command] = {}
"""Commands of `start` that `end_tree` has not seen the end of, by the id of their first process."""


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, out: IO[bytes], lock: int | None = None
) -> subprocess.Popen[bytes]:
    """Starts `command` in `folder` with its output in `out`; whoever starts it calls `end_tree` when it has ended.

    The command has a session of its own. It inherits the descriptor `lock`, so that a command which outlives a killed
    runner still holds the runner's lock. Orphans of it come to this process (`adopt_orphans`).
    """
    orphans.adopt_orphans()
    mark, before = orphans.MARK + uuid.uuid4().hex, orphans.children(os.getpid())
    process = subprocess.Popen(
        list(command),
        cwd=folder,
        env={**os.environ, **environment, mark: "1"},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
    )
    # Not waited for yet, so it is still there, where there is a /proc.
    first = orphans.process(process.pid)
    if first is not None:
        _running[process.pid] = orphans.Command(process.pid, mark, before, first.began)
    return process


def end_tree(process: subprocess.Popen[Any], patience: float = 10.0) -> int:
    """Ends `process` and all that it has left: asked first, killed after `patience` seconds.

    That is its group, and with `start` (or for as long as `process` itself runs) all of its descendants, those in other
    sessions and those whose parent has ended included. What an exit code of 0 leaves has GRACE seconds to end by
    itself. To be called again does no harm. Returns how many processes could not be ended: 0, but for those that hang
    in a driver.
    """
    known = _running.get(process.pid)
    if known is None:
        first = orphans.process(process.pid) if process.returncode is None else None
        if first is None:
            _end_group(process, patience)
            return 0
        known = orphans.Command(process.pid, "", orphans.children(os.getpid()), first.began)
    left = _left(process, known)
    if process.returncode == 0:
        left = _wait(process, known, GRACE)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if left:
            left = _wait(process, known, patience, number)
    if not left:
        _running.pop(process.pid, None)
    return len(left)


def _wait(
    process: subprocess.Popen[Any], known: orphans.Command, seconds: float, number: signal.Signals | None = None
) -> list[orphans.Process]:
    """What still runs of `known` when nothing does or `seconds` are over; each gets the signal `number` once."""
    deadline, pause = time.monotonic() + seconds, 0.005
    told: set[int] = set()
    while left := _left(process, known):
        if number is not None:
            orphans.send([each for each in left if each.pid not in told], number)
            told |= {each.pid for each in left}
        if time.monotonic() > deadline:
            return left
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    return []


def _left(process: subprocess.Popen[Any], known: orphans.Command) -> list[orphans.Process]:
    process.poll()
    members = known.members(_running)
    orphans.reap(members, process.pid)
    return [member for member in members if member.runs]


def _end_group(process: subprocess.Popen[Any], patience: float) -> None:
    """Where no process can be looked at, or `process` ended long ago: a signal to its group, if it still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def call(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    lock: int | None = None,
    watch: Callable[[], None] | None = None,
) -> int:
    """Runs `command` in `folder`, its output appended to `log`; returns its exit code.

    All of the command (see `end_tree`) ends when this process is interrupted or terminated, and nothing that it started
    is left when it has ended. `watch` is called about every second while it runs; what it raises ends the command.
    """
    with log.open("ab") as out:
        process = start(command, environment, folder, out, lock)
        try:
            while True:
                try:
                    code = process.wait(None if watch is None else LOOK)
                    break
                except subprocess.TimeoutExpired:
                    assert watch is not None
                    watch()
        finally:
            end_tree(process)
        return code


class Busy(Exception):
    """Another run works in the same folder."""


@contextlib.contextmanager
def sole(folder: Path) -> Iterator[int]:
    """Holds `folder` for this process and the commands that it starts; yields the lock's descriptor.

    Raises Busy where another run, or a command that it left behind, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "lock"
    with place.open("a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            raise Busy(
                f"{folder} is in use by the run with process id {held.read().strip() or 'unknown'}, or by a command "
                f"that it left behind (`fuser {place}` names it): wait for it or end it, or choose another --work"
            ) from None
        held.truncate(0)
        held.write(f"{os.getpid()}\n")
        held.flush()
        yield held.fileno()
