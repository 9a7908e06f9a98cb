"""Holds what LiberoWorld says of a known object against MuJoCo's own ray caster; prints JSON.

    python tests/starvla_real/libero_geometry.py LIBERO SUITE TASK      in LIBERO's environment

The object's origin, from the simulator's state, is projected into each turned picture, and the depth there is lifted
to the gripper's frame. Beside it stands where the ray from the camera to that origin first meets the object. Then the
object is moved, and all is done again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [sys.argv[1], str(Path(__file__).resolve().parents[2])]

import mujoco  # noqa: E402
import numpy as np  # noqa: E402

from runners.libero_world.task import IDLE  # noqa: E402
from runners.libero_world.world import LiberoWorld  # noqa: E402

VISUAL = np.array([0, 1, 0, 0, 0, 0], np.uint8)
"""The group of geoms that robosuite draws."""


def looked(world: LiberoWorld) -> dict[str, Any]:
    seen, sim = world.observe(), world.env.sim
    model, data = sim.model._model, sim.data._data
    found = {}
    for camera, pose in seen.camera_pose.items():
        k, depth = seen.intrinsics[camera], seen.depth[camera]
        target = world.place() - world.tip()
        x, y, z = np.linalg.inv(pose)[:3] @ [*target, 1.0]
        u, v = round(k[0, 0] * x / z + k[0, 2]), round(k[1, 1] * y / z + k[1, 2])
        if z <= 0 or not (0 <= u < depth.shape[1] and 0 <= v < depth.shape[0]):
            continue
        reach = float(depth[v, u])
        lifted = pose[:3] @ [(u - k[0, 2]) * reach / k[0, 0], (v - k[1, 2]) * reach / k[1, 1], reach, 1.0]
        eye = data.cam_xpos[model.camera(camera).id]
        ray = (world.place() - eye) / np.linalg.norm(world.place() - eye)
        geom = np.full(1, -1, np.int32)
        along = mujoco.mj_ray(model, data, eye, ray, VISUAL, 1, -1, geom)
        body = model.body_rootid[model.geom_bodyid[geom[0]]]
        found[camera] = {
            "named": bool(body == model.body_rootid[world.env.env.obj_body_id[world.target]]),
            "lifted": lifted.tolist(),
            "met": (eye + along * ray - world.tip()).tolist(),
            "origin": target.tolist(),
            "tip": world.tip().tolist(),
        }
    return found


def main() -> None:
    world = LiberoWorld(sys.argv[2], int(sys.argv[3]))
    world.begin(0, move_step=1)
    before = looked(world)
    world.step(IDLE)
    first = world.place()
    assert world.moved_at is None
    world.step(IDLE)
    assert world.moved_at == 1
    state = world.observe().state
    print(json.dumps({"before": before, "after": looked(world), "moved": (world.place() - first).tolist()}))
    assert np.isfinite(state).all()
    assert state.shape == (8,)
    sys.stdout.flush()
    # EGL complains where contexts outlive the interpreter.
    os._exit(0)


if __name__ == "__main__":
    main()
