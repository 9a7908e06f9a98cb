"""One attempt: the command in a group of its own, its output stamped as it comes, ended whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from runners import processes
from runners.supervise.causes import Ended
from runners.supervise.command import Command
from runners.supervise.stamped import Stamped

POLL = 0.2
"""Seconds between two looks at the output: how exact a time stamp is."""
PATIENCE = 20.0
"""Seconds that a command has to end by itself after SIGTERM: less than Slurm's KillWait, so that a report is left."""
HUNG = "hung"


class NotStarted(Exception):
    """The command's program cannot be run; the message says why."""


def run(
    command: Command,
    log: Stamped,
    raw: Path,
    watch: Callable[[], str],
    *,
    alive: Callable[[], float] = lambda: 0.0,
    hang_after: float = 0.0,
    lock: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Ended, str]:
    """Runs the command to its end; returns how it ended, and why it was ended by us, or the empty string.

    `watch` is asked a few times a second, and ends the command by returning a reason. `hang_after`: seconds without any
    output, and without any other sign of life (`alive`, on time.monotonic), after which the command counts as hung; 0
    never. The command writes to `raw`, a file: it outlives a supervisor that is killed, and what it said then is
    stamped by the next one.

    Raises NotStarted.
    """
    killed_before = oom_kills()
    start = last_output = time.monotonic()
    reason, told = "", False
    with raw.open("wb") as out, raw.open("rb") as said:
        try:
            process = processes.start(command.words, command.environment, command.folder, out, lock)
        except OSError as error:
            raise NotStarted(f"{command.words[0]} cannot be started: {error}") from None
        try:
            while True:
                code = process.poll()
                data = said.read()
                if data:
                    last_output = time.monotonic()
                    log.feed(data)
                if log.trouble is not None and not told:
                    told = True
                    say(f"{log.path} cannot be written ({log.trouble}): the command goes on, what it says is kept")
                if code is not None:
                    break
                if not reason:
                    reason = watch()
                    if not reason and hang_after and time.monotonic() - max(last_output, alive()) > hang_after:
                        reason = HUNG
                    if reason:
                        say(f"ends the command: {reason}")
                        processes.end_tree(process, PATIENCE)
                        continue
                time.sleep(POLL)
        finally:
            # Also what a launcher left behind, in sessions of their own: it would keep the GPU.
            processes.end_tree(process, PATIENCE)
            log.feed(said.read())
            log.end()
    raw.unlink()
    ended = Ended(
        code=process.returncode,
        seconds=time.monotonic() - start,
        host_memory=oom_kills() > killed_before,
        hung=reason == HUNG,
        asked=bool(reason) and reason != HUNG,
    )
    return ended, reason


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes of this control group the kernel has killed for want of memory; 0 where nothing counts them.

    The machine's own count (/proc/vmstat) is that of every job on it, and tells nothing of this one.
    """
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:
        return 0  # no /proc
    for _, kinds, path in groups:
        if kinds in ("", "memory"):
            # Version 2 counts in memory.events, version 1 in memory.oom_control.
            place = "sys/fs/cgroup" if not kinds else "sys/fs/cgroup/memory"
            name = "memory.events" if not kinds else "memory.oom_control"
            try:
                text = (root / place / path.strip("/") / name).read_text(encoding="ascii")
            except (FileNotFoundError, PermissionError):
                continue  # the other version may count
            for line in text.splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def stamp_left_over(raw: Path, log: Stamped) -> bool:
    """Stamps what a command said after its supervisor was killed; whether there was any."""
    if not raw.exists():
        return False
    log.note("what the command said after its supervisor had ended (times are those of now):")
    log.feed_from(raw)
    log.end()
    os.unlink(raw)
    return True
