"""LIBERO's demonstrations as upstream publishes them: an HDF5 file a task, `data/demo_N` with `states` [n, d] (MuJoCo's
flattened), `actions` [n, 7] and the attribute `model_file` (the scene as XML). No simulator is needed to read them.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from runners.places import Refused

ROBOT, CONTROL_HZ, ACTION_DIM = "Panda", 20, 7
DECIDES = ("type", "control_delta", "input_max", "input_min", "output_max", "output_min")
"""What of a controller's configuration says what an action means."""
STILL = 1e-4
"""Norm of an action below which it moves nothing, as in openvla's regeneration of these data."""


@dataclass(frozen=True)
class Demonstration:
    """`states` float64 [n, d] before each of `actions` float64 [n, 7]; `scene` is MuJoCo's XML."""

    file: Path
    name: str
    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    scene: str

    def fixtures(self, bodies: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
        """Position [3] and quaternion [4] of bodies in the scene: fixtures stand elsewhere after each reset, and no
        state tells where. Raises Refused for a body that the scene lacks.
        """
        found = {body.get("name"): body for body in ElementTree.fromstring(self.scene).iter("body")}
        if missing := [body for body in bodies if body not in found]:
            raise Refused(
                f"{self.file}, {self.name}: its scene has no {', '.join(missing)}, which the task has: it was recorded "
                "with another version of LIBERO"
            )
        return {
            body: (_numbers(found[body], "pos", "0 0 0"), _numbers(found[body], "quat", "1 0 0 0")) for body in bodies
        }


def _numbers(body: ElementTree.Element, attribute: str, otherwise: str) -> list[float]:
    return [float(word) for word in body.get(attribute, otherwise).split()]


def files_of(given: Sequence[Path], suite: str, tasks: Mapping[int, str]) -> dict[int, Path]:
    """The file of each task, among files and folders of files. `tasks`: names by number.

    Raises Refused for a file of another suite, and a task without a file, or with two.
    """
    numbers, found = {name: number for number, name in tasks.items()}, dict[int, Path]()
    for path in given:
        files = sorted(path.glob("*.hdf5")) if path.is_dir() else [path]
        if not files:
            raise Refused(f"{path} holds no *.hdf5: --demos wants LIBERO's demonstrations of {suite}")
        for file in files:
            name = task_of(file)
            if name not in numbers and (path.is_file() or len(files) == 1):
                raise Refused(f"{file} is of the task {name!r}, which is not among those asked for of {suite}")
            number = numbers.get(name)
            if number in found:
                raise Refused(f"{found[number]} and {file} are both of task {number}, {name!r}: name one in --demos")
            if number is not None:
                found[number] = file
    if missing := [number for number in tasks if number not in found]:
        raise Refused(
            f"no demonstrations of {suite}'s tasks {', '.join(map(str, missing))} (first {tasks[missing[0]]!r}) in "
            f"{', '.join(map(str, given))}: add their files, check --suite, or say with --tasks which to record"
        )
    return {number: found[number] for number in tasks}


def opened(file: Path) -> h5py.File:
    """Raises Refused for what is no HDF5 file of demonstrations."""
    try:
        handle = h5py.File(file, "r")
    except OSError as error:
        raise Refused(f"{file} is no HDF5 file, or not a whole one ({error}): download it again") from error
    if "data" not in handle:
        handle.close()
        raise Refused(f"{file} has no group `data`: it holds no demonstrations in LIBERO's layout")
    return handle


def task_of(file: Path) -> str:
    """The name of a file's task, from the scene's description that it names."""
    with opened(file) as handle:
        return Path(_attribute(handle["data"], "bddl_file_name", file)).stem


def check_robot(file: Path, controller: Mapping[str, Any]) -> None:
    """Raises Refused where actions mean another thing than in this simulator, whose `controller` is robosuite's
    configuration: another robot, controller, scale or control rate.
    """
    with opened(file) as handle:
        given = json.loads(_attribute(handle["data"], "env_args", file)).get("env_kwargs", {})
    robots = [given["robots"]] if isinstance(given.get("robots"), str) else given.get("robots")
    if robots != [ROBOT]:
        raise Refused(f"{file} was recorded with the robot {robots}: only {ROBOT} can be replayed")
    if given.get("control_freq", CONTROL_HZ) != CONTROL_HZ:
        raise Refused(f"{file} was recorded at {given['control_freq']} Hz: only {CONTROL_HZ} Hz can be replayed")
    theirs = given.get("controller_configs") or {}
    for key in DECIDES:
        if not np.array_equal(theirs.get(key), controller[key]):
            raise Refused(
                f"{file} was recorded with a controller whose {key} is {theirs.get(key)}, this simulator's is "
                f"{controller[key]}: its actions mean something else"
            )


def names_of(file: Path) -> list[str]:
    """Its demonstrations, by their numbers. Raises Refused where there are none."""
    with opened(file) as handle:
        names = [name for name in handle["data"] if name.removeprefix("demo_").isdigit()]
    if not names:
        raise Refused(f"{file} has no `data/demo_N`: it holds no demonstrations in LIBERO's layout")
    return sorted(names, key=number_of)


def number_of(name: str) -> int:
    return int(name.removeprefix("demo_"))


def read(file: Path, name: str) -> Demonstration:
    """Raises Refused for one that lacks something, or whose actions are none of LIBERO's."""
    with opened(file) as handle:
        group = handle["data"][name]
        for key in ("states", "actions"):
            if key not in group:
                raise Refused(
                    f"{file}, {name} has no `{key}`: without them it cannot be replayed (files with pictures alone are "
                    "no source: take upstream's own)"
                )
        states, actions = (np.asarray(group[key][()], dtype=np.float64) for key in ("states", "actions"))
        scene = _attribute(group, "model_file", file)
    if states.ndim != 2 or actions.shape != (len(states), ACTION_DIM) or not len(states):
        shapes = f"{list(states.shape)} and {list(actions.shape)}"
        raise Refused(f"{file}, {name}: states and actions of shape {shapes}; wants [n, d] and [n, {ACTION_DIM}]")
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise Refused(f"{file}, {name}: states or actions hold numbers that are not finite")
    return Demonstration(file, name, states, actions, scene)


def _attribute(group: Any, name: str, file: Path) -> str:
    if name not in group.attrs:
        raise Refused(f"{file}: `{group.name}` has no attribute {name!r}, as LIBERO's own files have")
    value = group.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def no_op(action: NDArray[np.float64], before: NDArray[np.float64] | None) -> bool:
    """Whether an action moves nothing: near zero, and the gripper as in the action kept before it."""
    return bool(np.linalg.norm(action[:-1]) < STILL and (before is None or action[-1] == before[-1]))


def in_data(action: NDArray[np.float64]) -> NDArray[np.float32]:
    """LIBERO's command as the public data have it: the gripper 1 for open and 0 for closed, not -1 and 1."""
    found = action.astype(np.float32)
    found[-1] = 1.0 - np.clip(found[-1], 0.0, 1.0)
    return found
