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
PATIENCE = 30.0
"""Seconds that a command has to end by itself after SIGTERM; writing a checkpoint on a signal takes such a while."""
HUNG = "hung"


def run(
    command: Command,
    log: Stamped,
    raw: Path,
    watch: Callable[[], str],
    *,
    hang_after: float = 0.0,
    lock: int | None = None,
) -> tuple[Ended, str]:
    """Runs the command to its end; returns how it ended, and why it was ended by us, or the empty string.

    `watch` is asked a few times a second, and ends the command by returning a reason. `hang_after`: seconds without any
    output after which the command counts as hung; 0 never. The command writes to `raw`, a file: it outlives a
    supervisor that is killed, and what it said then is stamped by the next one.
    """
    killed_before = oom_kills()
    start = last_output = time.monotonic()
    reason = ""
    with raw.open("wb") as out, raw.open("rb") as said:
        process = processes.start(command.words, command.environment, command.folder, out, lock)
        try:
            while True:
                code = process.poll()
                data = said.read()
                if data:
                    last_output = time.monotonic()
                    log.feed(data)
                if code is not None:
                    break
                if not reason:
                    reason = watch()
                    if not reason and hang_after and time.monotonic() - last_output > hang_after:
                        reason = HUNG
                    if reason:
                        log.note(f"ends the command: {reason}")
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
    """How many processes the kernel has killed for want of memory, in this control group where it counts them."""
    group = ""
    try:
        for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::"):
                group = line[3:].strip("/")
    except FileNotFoundError:
        pass  # no /proc: counted nowhere
    for place in (root / "sys/fs/cgroup" / group / "memory.events", root / "proc/vmstat"):
        try:
            for line in place.read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (FileNotFoundError, PermissionError):
            continue  # the next place counts too
    return 0


def stamp_left_over(raw: Path, log: Stamped) -> bool:
    """Stamps what a command said after its supervisor was killed; whether there was any."""
    if not raw.exists():
        return False
    log.note("what the command said after its supervisor had ended (times are those of now):")
    log.feed(raw.read_bytes())
    log.end()
    os.unlink(raw)
    return True
