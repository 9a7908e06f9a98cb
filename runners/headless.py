"""Chooses how MuJoCo draws on a machine without a screen, by drawing: egl, osmesa, then glx under Xvfb.

    eval "$(python -m runners headless)"                     # export MUJOCO_GL=... for what follows
    python -m runners headless -- python evaluate.py         # runs a command that can draw
    python -m runners headless --gl osmesa --python .venvs/openvla/bin/python -- torchrun evaluate.py

Runs in any Python from 3.10 on, and draws in the interpreter of --python, which needs mujoco. By default that is the
first that has it of: the command's own (python, or what a program such as torchrun names in its first line), python on
the PATH, the one that this was called with, and those of .venvs/. Without a command it prints the variables as lines
for a shell, and on the standard error why each way before did not do. glx needs a screen, an Xvfb that ends with the
command: it is only for `headless -- COMMAND`.
With EGL and several devices MUJOCO_EGL_DEVICE_ID names one that draws, among those of CUDA_VISIBLE_DEVICES where
robosuite is installed, which takes these numbers for EGL's.
Writes nothing. Signals are passed on to the command; the Xvfb is ended with it.
Exit codes: those of the command, 128 + N for one that signal N ended; 0 chosen, 1 nothing draws, 2 bad options or no
interpreter with mujoco, 127 no such command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runners import foreground, table
from runners.drawing import NoBackend, NoMujoco, Trial, lacks, trial_with, variables
from runners.egl_devices import EGL_DEVICE, Devices, devices_with
from runners.program_python import NoPython, python_of
from runners.xvfb import screen

ORDER = ("egl", "osmesa", "glx")

REMEDIES = {
    "egl": "Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri; with a GPU its driver brings EGL",
    "osmesa": "Debian: apt-get install libosmesa6",
    "glx": "Debian: apt-get install xvfb libgl1 libgl1-mesa-dri",
}


@dataclass(frozen=True)
class Backend:
    """A way to draw that worked: its name, and for every one tried before it why it did not."""

    name: str
    refused: Mapping[str, str]
    device: str | None = None
    """The number of the EGL device, where it has to be said."""

    @property
    def variables(self) -> dict[str, str]:
        """What a command is told, but for the screen that glx needs."""
        return variables(self.name) | ({} if self.device is None else {EGL_DEVICE: self.device})

    @contextlib.contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """The variables to run a command with; for glx an Xvfb runs as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            drawn = stack.enter_context(screen()) if self.name == "glx" else {}
            yield self.variables | drawn


def choose(trial: Trial, order: Sequence[str] = ORDER, devices: Devices = lambda: [None]) -> Backend:
    """The first backend in `order`, for egl with the first of `devices()`, with which `trial` draws.

    Raises NoBackend with the reason and the remedy of each.
    """
    refused: dict[str, str] = {}
    for name in order:
        try:
            reasons = []
            for device in devices() if name == "egl" else [None]:
                backend = Backend(name, refused, device)
                with backend.environment() as environment:
                    why = trial(environment)
                if why is None:
                    return backend
                reasons.append(why if device is None else f"device {device}: {why}")
            refused[name] = "; ".join(dict.fromkeys(reasons)) or "EGL finds no device"
        except NoBackend as error:
            refused[name] = str(error)
    told = "".join(f"\n  {name}: {why}\n      {REMEDIES[name]}" for name, why in refused.items())
    raise NoBackend(f"no way to draw without a screen works:{told}")


def backend_for(python: str, order: Sequence[str] = ORDER) -> Backend:
    """The first backend in `order` with which the interpreter `python` draws.

    Raises NoMujoco where it has no mujoco, NoBackend where nothing draws.
    """
    if why := lacks(python):
        raise NoMujoco(f"{python} {why}: `{python} -m pip install mujoco` there, or take another interpreter")
    return choose(trial_with([python]), order, devices_with([python]))


def interpreter_for(command: Sequence[str]) -> str | None:
    """The first interpreter with mujoco: that of `command`, PATH's, the caller's, those of .venvs/; None where none
    has it.
    """
    return next((python for python in dict.fromkeys(_interpreters(command)) if lacks(python) is None), None)


def _interpreters(command: Sequence[str]) -> Iterator[str]:
    if command:
        # What is no Python's program draws with whatever Python it calls, which is PATH's most of the time.
        with contextlib.suppress(NoPython, OSError):
            yield python_of(command[0], Path.cwd(), os.environ.get("PATH"))
    yield from filter(None, map(shutil.which, ("python", "python3")))
    yield os.environ.get(table.CALLER) or sys.executable
    yield from (str(path) for path in map(table.interpreter, table.BUILT_BY) if path.exists())


def parser() -> argparse.ArgumentParser:
    options = table.parser("headless", __doc__)
    options.add_argument("--python", metavar="FILE", help="the interpreter that has mujoco; see above")
    options.add_argument("--gl", choices=ORDER, help="only this way")
    options.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="runs this, and ends with it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    python = options.python or interpreter_for(command)
    if python is None:
        print("error: no interpreter with mujoco: name one with --python (`make openvla` builds one)", file=sys.stderr)
        return 2
    try:
        backend = backend_for(python, (options.gl,) if options.gl else ORDER)
        for name, why in backend.refused.items():
            print(f"{name} does not draw here: {why}", file=sys.stderr)
        print(f"{backend.name} draws in {python}", file=sys.stderr, flush=True)
        if not command and backend.name == "glx":
            print("error: glx needs a screen while it draws: say headless -- COMMAND", file=sys.stderr)
            return 1
        if not command:
            for name, value in backend.variables.items():
                print(f"export {name}={shlex.quote(value)}")
            return 0
        with backend.environment() as environment:
            return foreground.run(command, environment)
    except NoBackend as error:
        lacking = isinstance(error, NoMujoco)
        print(f"error: {error}{' with --python' if lacking else ''}", file=sys.stderr)
        return 2 if lacking else 1
    except OSError as error:
        print(f"error: {command[0]} does not start: {error}", file=sys.stderr)
        return 127
