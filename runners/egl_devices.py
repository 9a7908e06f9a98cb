"""The EGL devices that MuJoCo and robosuite can be told to draw on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

from runners.drawing import NoBackend, asked, variables

EGL_DEVICE, VISIBLE = "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES"

DEVICES = """
import importlib.util, json, os
from mujoco.egl import egl_ext
found = {"devices": len(egl_ext.eglQueryDevicesEXT()), "robosuite": importlib.util.find_spec("robosuite") is not None}
print(json.dumps(found), flush=True)
os._exit(0)
"""

Devices = Callable[[], "Sequence[str | None]"]


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
        said = asked(python, DEVICES, variables("egl"))
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
