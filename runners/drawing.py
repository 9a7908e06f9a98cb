"""Asks an interpreter, in a process of its own, whether it has MuJoCo and whether that draws."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120.0
"""Seconds for one trial: software rendering on a slow machine imports and draws within twenty."""

# Importing it would already fail where MUJOCO_GL names a way that does not draw.
HAS_MUJOCO = "import importlib.util, sys; sys.exit(importlib.util.find_spec('mujoco') is None)"

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

Trial = Callable[[Mapping[str, str]], "str | None"]


class NoBackend(Exception):
    """Nothing draws; the message has every reason and remedy."""


class NoMujoco(NoBackend):
    """The interpreter is not there or has no mujoco, so that no way can be tried; the message has the remedy."""


@dataclass(frozen=True)
class Said:
    """`ok`: the script ended well; `text` its standard output, `why` how it failed."""

    ok: bool
    text: str
    why: str


def variables(name: str) -> dict[str, str]:
    """What MuJoCo and PyOpenGL are told for backend `name`."""
    return {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}


def asked(python: Sequence[str], script: str, environment: Mapping[str, str]) -> Said:
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
        return Said(False, "", f"nothing drawn within {PATIENCE:.0f} s")
    except OSError as error:
        return Said(False, "", str(error))
    last = [line for line in run.stderr.splitlines() if line.strip()][-1:] or ["no message"]
    return Said(run.returncode == 0, run.stdout, f"exit code {run.returncode}: {last[0].strip()}")


def lacks(python: str) -> str | None:
    """Why nothing can be drawn in the interpreter `python` at all, or None where it would find mujoco."""
    said = asked([python], HAS_MUJOCO, {})
    if said.ok:
        return None
    return "has no mujoco" if Path(python).is_file() else f"does not start ({said.why})"


def trial_with(python: Sequence[str]) -> Trial:
    """A trial that draws in a process of the interpreter `python`; it returns why that failed, or None."""

    def trial(environment: Mapping[str, str]) -> str | None:
        said = asked(python, TRIAL, environment)
        return None if said.ok and "drawn" in said.text else said.why

    return trial
