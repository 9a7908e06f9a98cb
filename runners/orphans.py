"""What a command has left running: its descendants, whoever their parent has become and whatever session they are in.

torchrun and accelerate start each worker in a session of its own. A signal to the launcher's process group does not
reach them, and a launcher that is killed cannot end them: they would go on and keep the GPU. They are found in /proc
(Linux) by their ancestors, by their session, and by a variable that every descendant inherits in its environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "GRAFT_COMMAND_"
"""Begins the name of the variable by which descendants are told from the processes of others."""
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat. `began` is in the kernel's ticks since it booted: with `pid` it names one process."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    began: int

    @property
    def runs(self) -> bool:
        return self.state not in "ZX"


def adopt_orphans() -> bool:
    """Makes this process, and not init, the parent of descendants whose own parent ends (prctl(2), Linux 3.4).

    Returns whether the system can: elsewhere orphans are still found by environment and session, where there is /proc.
    """
    if not sys.platform.startswith("linux"):
        return False
    code: int = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return code == 0


def process(pid: int) -> Process | None:
    """The process with this id, None where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold blanks and brackets of its own.
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def all_processes() -> dict[int, Process]:
    """Every process by its id; none where there is no /proc."""
    if not PROC.is_dir():
        return {}
    numbers = [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]
    return {pid: found for pid in numbers if (found := process(pid)) is not None}


def children(pid: int) -> frozenset[int]:
    return frozenset(each.pid for each in all_processes().values() if each.parent == pid)


def marks(pid: int) -> frozenset[str]:
    """Names of the marks in the environment that a process was started with; none where it cannot be read."""
    try:
        lines = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return frozenset()
    names = (line.partition(b"=")[0].decode(errors="replace") for line in lines if line.startswith(MARK.encode()))
    return frozenset(names)


@dataclass(frozen=True)
class Command:
    """What tells a command's processes from others': the first one, its mark, and the children that we had before."""

    pid: int
    mark: str
    before: frozenset[int]
    began: int

    def members(self, others: Mapping[int, Command]) -> list[Process]:
        """The command's processes that are still there, also the first, and those that ended and wait to be reaped.

        An orphan whose environment says nothing is taken for the command's where it became our child while the command
        ran, in a session that is not ours. `others` are further commands of this process: theirs are left alone.
        """
        everyone = all_processes()
        foreign = {other.mark for other in others.values() if other.mark != self.mark}
        own = os.getsid(0)
        found: dict[int, Process] = {}
        for each in everyone.values():
            if each.pid == os.getpid() or each.began < self.began:
                continue
            carried = marks(each.pid)
            adopted = (
                each.parent == os.getpid()
                and each.session != own
                and each.pid not in self.before
                and each.pid not in others
                and not carried & foreign
            )
            if each.pid == self.pid or each.session == self.pid or self.mark in carried or adopted:
                found[each.pid] = each
        grown = True
        while grown:
            new = {p.pid: p for p in everyone.values() if p.parent in found and p.pid not in found}
            found |= new
            grown = bool(new)
        return list(found.values())


def send(members: list[Process], number: signal.Signals) -> None:
    """Signals those of `members` that still are what they were."""
    for member in members:
        now = process(member.pid)
        if now is not None and now.began == member.began:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, number)


def reap(members: list[Process], first: int) -> None:
    """Waits for those that ended and were left to this process; `first` is somebody else's to wait for."""
    for member in members:
        if not member.runs and member.parent == os.getpid() and member.pid != first:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(member.pid, os.WNOHANG)
