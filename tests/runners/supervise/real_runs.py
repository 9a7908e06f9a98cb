"""A supervisor over a command of a real upstream, for tests that kill what it runs while it runs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 900.0
"""Seconds for one supervised run, most of them spent on imports."""


class RealRun:
    """`command` supervised in `home`; `log` is the whole log so far."""

    def __init__(
        self, home: Path, command: Sequence[object], environment: Mapping[str, str], options: Sequence[object] = ()
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.folder, self.command = home, home / "work" / "run", [str(word) for word in command]
        self.mark = f"GRAFT_TEST_{uuid.uuid4().hex}"
        self.environment = {**environment, self.mark: "1"}
        own = ["--work", home / "work", "--name", "run", "--lang", "en", *options]
        self.words = [sys.executable, ROOT / "runners", "supervise", *own, "--", *self.command]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.home / "said.txt").open("wb") as out:
            self.process = subprocess.Popen(
                list(map(str, self.words)),
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> int:
        """Waits for the supervisor; its exit code. Nothing of the run may be left then."""
        assert self.process is not None
        try:
            code = self.process.wait(LIMIT)
        finally:
            left = self.running()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == {}
        return code

    def run(self) -> int:
        self.start()
        return self.end()

    @property
    def said(self) -> str:
        return (self.home / "said.txt").read_text(encoding="utf-8", errors="replace")

    @property
    def log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def running(self) -> dict[int, list[str]]:
        """Every process of this run, in whatever session, by its id: its words."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
            except OSError:
                continue  # it has ended meanwhile, or is another's
        return found

    def of(self, *marks: str) -> list[int]:
        """Ids of processes among whose words are those that end with each of `marks`; never the supervisor's."""
        return sorted(
            pid
            for pid, words in self.running().items()
            if "supervise" not in words and all(any(word.endswith(mark) for word in words) for mark in marks)
        )

    def wait(self, true: Callable[[], object], what: str) -> None:
        assert self.process is not None
        end = time.monotonic() + LIMIT
        while not true():
            assert self.process.poll() is None, f"ended before {what}\n{self.said}"
            assert time.monotonic() < end, f"never {what}\n{self.said}"
            time.sleep(0.02)

    def kill_at(self, step: int, pattern: str, mark: str, draw: random.Random, *, held: bool = False) -> None:
        """SIGKILL to the process with `mark` once the log tells of `step` by `pattern`, in whatever it does then.

        `held`: the supervisor sees nothing of it until `go_on`.
        """
        assert self.process is not None
        self.wait(lambda: max(map(int, re.findall(pattern, self.log)), default=0) >= step, f"at step {step}")
        time.sleep(draw.uniform(0, 0.3))
        (pid,) = self.of(mark)
        if held:
            self.process.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        self.wait(lambda: pid not in self.running(), "gone")

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def decisions(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
        return [item for item in map(json.loads, lines) if item["kind"] == kind]

    @property
    def remedies(self) -> list[str]:
        """`cause/remedy` of every remedy taken, in order."""
        return [f"{item['cause']}/{item['remedy']}" for item in self.decisions("remedy")]

    @property
    def begun(self) -> list[str | None]:
        """Names of the checkpoints that the attempts went on from."""
        return [Path(item["begun"]).name if item["begun"] else None for item in self.decisions("attempt")]
