"""Chooses how MuJoCo draws on a machine without a screen, by drawing: egl, osmesa, then glx under Xvfb.

python runners/headless.py [--python INTERPRETER]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ORDER = ("egl", "osmesa", "glx")
PATIENCE = 120.0
"""Seconds for one trial: software rendering on a slow machine imports and draws within twenty."""

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

REMEDIES = {
    "egl": "Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri; with a GPU its driver brings EGL",
    "osmesa": "Debian: apt-get install libosmesa6",
    "glx": "Debian: apt-get install xvfb libgl1 libgl1-mesa-dri",
}

Trial = Callable[[Mapping[str, str]], "str | None"]


class NoBackend(Exception):
    """Nothing draws; the message has every reason and remedy."""


@dataclass(frozen=True)
class Backend:
    """A way to draw that worked: its name, and for every one tried before it why it did not."""

    name: str
    refused: Mapping[str, str]

    @contextlib.contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """The variables to run a command with; for glx an Xvfb runs as long as the context lasts."""
        with contextlib.ExitStack() as stack:
            screen = stack.enter_context(_screen()) if self.name == "glx" else {}
            yield variables(self.name) | screen


def variables(name: str) -> dict[str, str]:
    """What MuJoCo and PyOpenGL are told for backend `name`."""
    return {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}


def trial_with(python: Sequence[str]) -> Trial:
    """A trial that draws in a process of the interpreter `python`; it returns why that failed, or None."""

    def trial(environment: Mapping[str, str]) -> str | None:
        try:
            run = subprocess.run(
                [*python, "-c", TRIAL],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"nothing drawn within {PATIENCE:.0f} s"
        except OSError as error:
            return str(error)
        if run.returncode == 0 and "drawn" in run.stdout:
            return None
        last = [line for line in run.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        return f"exit code {run.returncode}: {last[0].strip()}"

    return trial


def choose(trial: Trial, order: Sequence[str] = ORDER) -> Backend:
    """The first backend in `order` with which `trial` draws.

    Raises NoBackend with the reason and the remedy of each.
    """
    refused: dict[str, str] = {}
    for name in order:
        try:
            with Backend(name, {}).environment() as environment:
                why = trial(environment)
        except NoBackend as error:
            why = str(error)
        if why is None:
            return Backend(name, refused)
        refused[name] = why
    reasons = "".join(f"\n  {name}: {why}\n      {REMEDIES[name]}" for name, why in refused.items())
    raise NoBackend(f"no way to draw without a screen works:{reasons}")


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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has mujoco")
    try:
        backend = choose(trial_with([parser.parse_args().python]))
    except NoBackend as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, why in backend.refused.items():
        print(f"{name}: {why}", file=sys.stderr)
    print(backend.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
