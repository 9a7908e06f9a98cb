"""Commands as processes: one log each, ended as a group, and never two runs in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TAIL = 25
"""Lines of a failed command's log that are shown."""


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


def call(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, lock: int | None = None
) -> int:
    """Runs `command` in `folder` with its output in `log`; returns its exit code.

    The command has a process group of its own, and all of it ends when this process is interrupted or terminated. It
    inherits the descriptor `lock`, so that a command which outlives a killed runner still holds the runner's lock.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        try:
            return process.wait()
        except BaseException:
            end_group(process)
            raise


def end_group(process: subprocess.Popen[Any], patience: float = 10.0) -> None:
    """Ends all processes in the group of `process`: asked first, killed after `patience` seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


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
