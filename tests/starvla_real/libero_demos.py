"""Writes demonstrations in the layout of LIBERO's HDF5 files, played here, and what a controller saw in them.

    python tests/starvla_real/libero_demos.py LIBERO FOLDER SUITE TASK      in LIBERO's environment

The task is to put one object on another. Demonstrations 0 and 2 begin with it there already, which is a success, 1 with
both apart. In each the arm moves a little; two actions move nothing, and one only closes the gripper.
FOLDER/seen_N.npz holds, for each action that moves something, the observation before it, and where the object was.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [sys.argv[1], str(Path(__file__).resolve().parents[2])]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import robosuite  # noqa: E402

from runners.libero_world.task import IDLE, SETTLE, suite_of  # noqa: E402
from runners.libero_world.world import LiberoWorld  # noqa: E402

ACTIONS = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0],  # moves nothing
        [1.0, 0.1, -0.8, 0.0, 0.0, 0.0, -1.0],
        [1.0, 0.1, -0.8, 0.0, 0.1, 0.0, -1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # moves nothing
        [-0.2, 0.4, 0.6, 0.2, 0.0, 0.0, 1.0],
        [-0.2, 0.4, 0.6, 0.0, 0.0, -0.3, -1.0],
        [0.1, -0.2, 0.2, 0.0, 0.0, 0.0, -1.0],
    ]
)
MOVING = (1, 2, 3, 5, 6, 7)
UNDER = "plate_1"


def begun(world: LiberoWorld, number: int) -> np.ndarray:
    """A state to begin at, flattened; fixtures stand where a seed of this number's has put them."""
    world.env.seed(900 + number)
    world.env.reset()
    world.env.set_init_state(world.initial_states[number])
    sim, objects = world.env.sim, world.env.env.objects_dict
    if number != 1:
        joint = objects[world.target].joints[-1]
        pose = np.array(sim.data.get_joint_qpos(joint))
        pose[:3] = sim.data.body_xpos[world.env.env.obj_body_id[UNDER]] + np.array([0.0, 0.0, 0.03])
        sim.data.set_joint_qpos(joint, pose)
        sim.forward()
    return world.env.get_sim_state()


def played(world: LiberoWorld, number: int) -> tuple[np.ndarray, str, dict[str, Any]]:
    """States before each action, the scene, and what was seen before each that moves something."""
    states, scene = [begun(world, number)], world.env.sim.model.get_xml()
    for _ in range(SETTLE):
        world._seen, _, _, _ = world.env.step(list(IDLE))
    seen: dict[str, list[Any]] = {}
    for step in MOVING:
        observation = world.observe()
        found = {"state": observation.state, "place": world.place() - world.tip()}
        for kind in ("images", "depth", "intrinsics", "camera_pose"):
            found |= {f"{kind}/{camera}": array for camera, array in getattr(observation, kind).items()}
        for name, value in found.items():
            seen.setdefault(name, []).append(value)
        world.act(ACTIONS[step])
    states += [states[0]] * (len(ACTIONS) - 1)
    seen["success"], seen["touching"] = [world.success], [world.touching(), grasped(world)]
    return np.stack(states), scene, {name: np.stack(values) for name, values in seen.items()}


def grasped(world: LiberoWorld) -> bool:
    """Whether the gripper touches something once the object is where the gripper is."""
    sim, joint = world.env.sim, world.env.env.objects_dict[world.target].joints[-1]
    pose = np.array(sim.data.get_joint_qpos(joint))
    pose[:3] = world.tip() - np.array([0.0, 0.0, 0.02])
    sim.data.set_joint_qpos(joint, pose)
    sim.forward()
    world.act(IDLE)
    return world.touching()


def main() -> None:
    folder, suite, task = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    world = LiberoWorld(suite, task)
    known = suite_of(suite).get_task(task)
    controller = robosuite.load_controller_config(default_controller="OSC_POSE")
    settings = {"robots": ["Panda"], "controller_configs": controller, "control_freq": 20}
    with h5py.File(folder / f"{known.name}_demo.hdf5", "w") as file:
        group = file.create_group("data")
        group.attrs["bddl_file_name"] = f"somewhere/bddl_files/{suite}/{known.bddl_file}"
        group.attrs["env_args"] = json.dumps({"type": 1, "env_name": "made here", "env_kwargs": settings})
        group.attrs["problem_info"] = json.dumps({"language_instruction": known.language})
        for number in range(3):
            states, scene, seen = played(world, number)
            demo = group.create_group(f"demo_{number}")
            demo.attrs["model_file"] = scene
            demo.create_dataset("states", data=states)
            demo.create_dataset("actions", data=ACTIONS)
            np.savez(folder / f"seen_{number}.npz", **seen)
    print("written", flush=True)
    # EGL complains where contexts outlive the interpreter.
    os._exit(0)


if __name__ == "__main__":
    main()
