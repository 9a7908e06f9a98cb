"""A policy that lives in another process: this side of the pipe. The other is runners/libero_world/policy.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.libero_world.evaluate import PolicyError
from runners.libero_world.messages import Closed, Observation, receive, send
from runners.processes import end_tree, tail_of

PATIENCE = 30.0
"""Seconds that a process has to end by itself when its pipe is closed."""


class PolicyGone(Exception):
    """The policy's process did not start, or ended: nothing more can be evaluated. Its log's end is in the message."""


class RemotePolicy:
    """Starts `command` and talks with it through its standard input and output; what it prints goes to `log`.

    `hello` is what it says of itself. Use it as a context: the process ends with it, whatever happens. Raises
    PolicyGone where the policy cannot be loaded.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.notes = log, {}
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            self.hello, _ = self._answer()
            self.execute_steps, self.replans = int(self.hello["execute_steps"]), bool(self.hello["replans"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process: asked by closing its pipe, then by its group's id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(PATIENCE)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            end_tree(self.process)
        finally:
            self.process.stdout.close()

    def begin(self, seed: int) -> None:
        self._call({"call": "begin", "seed": seed})

    def act(self, observation: Observation, executed: int) -> NDArray[np.float32]:
        return self._asked("act", observation, executed)[1]["chunk"]

    def interrupt(self, observation: Observation, executed: int) -> bool:
        return bool(self._asked("interrupt", observation, executed)[0]["restart"])

    def _asked(
        self, call: str, observation: Observation, executed: int
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        plain, arrays = observation.packed()
        return self._call({"call": call, "executed": executed, **plain}, arrays)

    def _call(
        self, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self.process.stdin is not None
        try:
            send(self.process.stdin, plain, arrays or {})
        except Closed:
            raise self._gone() from None
        found, answered = self._answer()
        if "error" in found:
            raise PolicyError(found["error"])
        self.notes |= found.get("notes", {})
        return found, answered

    def _answer(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self.process.stdout is not None
        try:
            return receive(self.process.stdout)
        except Closed:
            raise self._gone() from None

    def _gone(self) -> PolicyGone:
        return PolicyGone(f"the policy's process ended:\n{tail_of(self.log)}")
