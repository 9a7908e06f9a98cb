"""Chooses how MuJoCo draws on a machine without a screen, by drawing: egl, osmesa, then glx under Xvfb.

    eval "$(python -m runners headless)"                     # export MUJOCO_GL=... for what follows
    python -m runners headless -- python evaluate.py ...     # runs a command that can draw
    python -m runners headless --gl osmesa --python .venvs/openvla/bin/python -- COMMAND ...

Draws in the interpreter of --python, which needs mujoco: by default the command's own, else this one, else one of
.venvs/. Without a command it prints the variables as lines for a shell, and on the standard error why each way before
did not do. glx needs a screen, an Xvfb that ends with the command: it is only for `headless -- COMMAND`.
With EGL and several devices MUJOCO_EGL_DEVICE_ID names one that draws, among those of CUDA_VISIBLE_DEVICES where
robosuite is installed, which takes these numbers for EGL's.
Writes nothing. Signals are passed on to the command; the Xvfb is ended with it.
Exit codes: those of the command, 128 + N for one that signal N ended; 0 chosen, 1 nothing draws, 2 bad options or no
interpreter with mujoco, 127 no such command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runners import foreground, table

ORDER = ("egl", "osmesa", "glx")
PATIENCE = 120.0
"""Seconds for one trial: software rendering on a slow machine imports and draws within twenty."""
EGL_DEVICE, VISIBLE = "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES"

# A red sphere before nothing: the picture has to hold both. Objects are freed before the interpreter ends, and the
# process leaves at once, since EGL complains when contexts outlive it.
TRIAL = """
import os, mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.3' rgba='1 0 0 1'/>"
    "<camera name='eye' pos='0 -1.5 0' xyaxes='1 0 0 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data, camera="eye")
picture = renderer.render()
assert int(picture[32, 32, 0]) > int(picture[2, 2, 0]) + 30, "the picture is empty"
print("drawn", flush=True)
os._exit(0)
"""

DEVICES = """
import importlib.util, json, os
from mujoco.egl import egl_ext
found = {"devices": len(egl_ext.eglQueryDevicesEXT()), "robosuite": importlib.util.find_spec("robosuite") is not None}
print(json.dumps(found), flush=True)
os._exit(0)
"""

REMEDIES = {
    "egl": "Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri; with a GPU its driver brings EGL",
    "osmesa": "Debian: apt-get install libosmesa6",
    "glx": "Debian: apt-get install xvfb libgl1 libgl1-mesa-dri",
}

Trial = Callable[[Mapping[str, str]], "str | None"]
Devices = Callable[[], "Sequence[str | None]"]


class NoBackend(Exception):
    """Nothing draws; the message has every reason and remedy."""


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
            screen = stack.enter_context(_screen()) if self.name == "glx" else {}
            yield self.variables | screen


def variables(name: str) -> dict[str, str]:
    """What MuJoCo and PyOpenGL are told for backend `name`."""
    return {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}


def trial_with(python: Sequence[str]) -> Trial:
    """A trial that draws in a process of the interpreter `python`; it returns why that failed, or None."""

    def trial(environment: Mapping[str, str]) -> str | None:
        said = _asked(python, TRIAL, environment)
        return None if said.ok and "drawn" in said.text else said.why

    return trial


@dataclass(frozen=True)
class _Said:
    ok: bool
    text: str
    why: str


def _asked(python: Sequence[str], script: str, environment: Mapping[str, str]) -> _Said:
    """Runs `script` in a process of `python`."""
    try:
        run = subprocess.run(
            [*python, "-c", script],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return _Said(False, "", f"nothing drawn within {PATIENCE:.0f} s")
    except OSError as error:
        return _Said(False, "", str(error))
    last = [line for line in run.stderr.splitlines() if line.strip()][-1:] or ["no message"]
    return _Said(run.returncode == 0, run.stdout, f"exit code {run.returncode}: {last[0].strip()}")


def devices_with(python: Sequence[str], environment: Mapping[str, str] | None = None) -> Devices:
    """The EGL devices to try in the interpreter `python`, in order; None leaves the choice to MuJoCo.

    robosuite asserts that MUJOCO_EGL_DEVICE_ID is found in CUDA_VISIBLE_DEVICES, and without the first takes the second
    for EGL's numbers (robosuite 1.4.1, `utils/binding_utils.py` and `renderers/context/egl_context.py`), where an empty
    one or the name of a GPU is no number: then a number has to be said. Where it is not installed a device of
    CUDA_VISIBLE_DEVICES comes first, so that pictures are drawn on the GPU that computes, and others after.

    The function raises NoBackend where EGL has no device, or robosuite would take none of them.
    """
    env = os.environ if environment is None else environment

    def devices() -> Sequence[str | None]:
        visible = env.get(VISIBLE)
        if env.get(EGL_DEVICE):
            return [env[EGL_DEVICE]]
        said = _asked(python, DEVICES, variables("egl"))
        if not said.ok:
            raise NoBackend(said.why)
        found = json.loads(said.text.splitlines()[-1])
        every = [str(number) for number in range(found["devices"])]
        if not visible:
            return [None, *every] if visible is None else every
        listed = [number for number in every if number in visible.split(",")]
        if not found["robosuite"]:
            return [*listed, None, *(number for number in every if number not in listed)]
        if not visible.replace(",", "").isdigit():
            listed = [number for number in every if number in visible]
        if not listed:
            raise NoBackend(
                f"{VISIBLE}={visible} names none of the {len(every)} EGL devices here, and robosuite takes no other"
            )
        return listed

    return devices


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


@contextlib.contextmanager
def _screen() -> Iterator[dict[str, str]]:
    """An Xvfb on a display number of its own choosing, ended with the context.

    Raises NoBackend where there is no Xvfb or it does not start.
    """
    program = shutil.which("Xvfb")
    if program is None:
        raise NoBackend("Xvfb is not installed")
    reads, writes = os.pipe()
    try:
        server = subprocess.Popen(
            [program, "-displayfd", str(writes), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
            pass_fds=(writes,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        os.close(writes)
    try:
        with os.fdopen(reads, encoding="ascii") as answer:
            display = answer.readline().strip()
        if not display:
            said = (server.communicate()[1] or b"").decode(errors="replace").strip().splitlines()[-1:]
            raise NoBackend(f"Xvfb did not start: {''.join(said) or 'no message'}")
        yield {"DISPLAY": f":{display}"}
    finally:
        server.terminate()
        server.wait()
        if server.stderr is not None:
            server.stderr.close()


def interpreter_for(command: Sequence[str]) -> str | None:
    """The first interpreter with mujoco: that of `command`, this one, those of .venvs/; None where none has it."""
    own = shutil.which(command[0]) if command and Path(command[0]).name.startswith("python") else None
    there = [str(path) for path in map(table.interpreter, ("openvla", "LLaMA-Factory")) if path.exists()]
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('mujoco') is None)"
    return next(
        (python for python in (own, sys.executable, *there) if python and _asked([python], script, {}).ok), None
    )


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
        backend = choose(trial_with([python]), (options.gl,) if options.gl else ORDER, devices_with([python]))
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
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {command[0]} does not start: {error}", file=sys.stderr)
        return 127
