"""A scene of LIBERO and what is seen in it. Needs LIBERO with its pack, robosuite, and a way to draw (MUJOCO_GL)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.libero_world.camera import axis_angle, camera_pose, intrinsics, metres, turned
from runners.libero_world.messages import Observation

CAMERAS = ("agentview", "robot0_eye_in_hand")
"""In the order of upstream's data: the primary view, the wrist's."""
ACTION_DIM, CONTROL_HZ = 7, 20
LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Control steps of an episode of each suite, as in upstream's evaluation."""
RESOLUTION, SEED = 256, 7
"""Pixels a side, and the seed of the first episode's simulator, as upstream's evaluation has them."""
GROWS = 4
"""Bytes recorded to those of the demonstrations' file: pictures of four times as many pixels as PNG, with depth and
masks, where that has raw pixels."""
SETTLE, IDLE = 10, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Control steps in which objects come to rest before an episode, and what the robot does meanwhile."""
GEOM = 5
"""MuJoCo's mjOBJ_GEOM."""


class LiberoTask:
    """The simulator of a task. `named` is what the task is about, of `named_of`; with `masks` its pixels are drawn too.

    robosuite observes a physics step before a control step's end, so that a wrist camera has moved since (half a
    millimetre at full speed): poses and masks are taken in the same moment as the pictures.

    Raises ValueError for a suite or a task that LIBERO does not have.
    """

    def __init__(self, suite: str, task: int, *, resolution: int = RESOLUTION, masks: bool = False) -> None:
        from libero.libero.envs import OffScreenRenderEnv
        from robosuite.utils.observables import Observable, sensor

        self.suite, self.task, self.named = suite, task, named_of(suite, task)
        self.instruction = str(suite_of(suite).get_task(task).language)
        self.env = OffScreenRenderEnv(
            bddl_file_name=scene_of(suite, task),
            camera_heights=resolution,
            camera_widths=resolution,
            camera_depths=True,
            control_freq=CONTROL_HZ,
        )
        self.resolution = resolution
        self.step_count, self.success = 0, False
        looks: dict[str, Callable[[str], Any]] = {"pose": self._camera, "named": self._named}
        for camera, kind in itertools.product(CAMERAS, ("pose", "named") if masks else ("pose",)):
            look = functools.partial(lambda look, camera, _: look(camera), looks[kind], camera)
            # Those of the modality `image` are not strung together.
            observable = Observable(f"{camera}_{kind}", sensor("image")(look), sampling_rate=CONTROL_HZ)
            self.env.env.add_observable(observable)
        touch = sensor("contact")(lambda _: self._touching())
        self.env.env.add_observable(Observable("touching", touch, sampling_rate=CONTROL_HZ))

    def close(self) -> None:
        self.env.close()

    def settle(
        self, state: ArrayLike, seed: int, fixtures: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None
    ) -> None:
        """Puts the scene into a flattened state of MuJoCo and lets objects come to rest.

        `fixtures`: where bodies stand that are no part of a state, as position [3] and quaternion [4] (w first); those
        not named stand where the seed puts them. Raises ValueError for a state of another scene.
        """
        self.env.seed(seed)
        self.env.reset()
        model = self.env.sim.model
        for body, (position, quaternion) in (fixtures or {}).items():
            number = model.body_name2id(body)
            model.body_pos[number], model.body_quat[number] = position, quaternion
        flat = np.asarray(state, dtype=np.float64)
        if flat.shape != (1 + model.nq + model.nv,):
            raise ValueError(f"a state of shape {list(flat.shape)}, this scene's has {1 + model.nq + model.nv} numbers")
        self.env.set_init_state(flat)
        for _ in range(SETTLE):
            self._seen, _, _, _ = self.env.step(list(IDLE))
        self.step_count, self.success = 0, False

    def act(self, action: ArrayLike) -> None:
        """One control step of a twentieth of a second. Raises ValueError for what is no action."""
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != (ACTION_DIM,) or not np.isfinite(wanted).all():
            raise ValueError(f"step {self.step_count}: an action is {ACTION_DIM} finite numbers, not {action!r}")
        self._seen, _, done, _ = self.env.step(wanted.tolist())
        self.success = bool(done)
        self.step_count += 1

    def tip(self) -> NDArray[np.float64]:
        """[3], where the gripper is in the world."""
        return np.array(self._seen["robot0_eef_pos"], dtype=np.float64)

    def place(self) -> NDArray[np.float64]:
        """[3], where the origin of what the task is about is in the world."""
        return np.array(self.env.sim.data.body_xpos[self._named_body()], dtype=np.float64)

    def observe(self) -> Observation:
        sim, seen = self.env.sim, self._seen
        extent = sim.model.stat.extent
        near, far = sim.model.vis.map.znear * extent, sim.model.vis.map.zfar * extent
        fingers = np.asarray(seen["robot0_gripper_qpos"])
        state = np.concatenate([self.tip(), axis_angle(seen["robot0_eef_quat"]), fingers]).astype(np.float32)
        fovy = {camera: float(sim.model.cam_fovy[sim.model.camera_name2id(camera)]) for camera in CAMERAS}
        poses = {camera: seen[f"{camera}_pose"] for camera in CAMERAS}
        return Observation(
            self.step_count,
            self.instruction,
            state,
            images={camera: turned(seen[f"{camera}_image"]) for camera in CAMERAS},
            depth={camera: turned(metres(seen[f"{camera}_depth"][..., 0], near, far)) for camera in CAMERAS},
            intrinsics={camera: intrinsics(fovy[camera], self.resolution, self.resolution) for camera in CAMERAS},
            camera_pose={camera: camera_pose(pose[0], pose[1:], self.tip()) for camera, pose in poses.items()},
        )

    def named_masks(self) -> dict[str, NDArray[np.bool_]]:
        """[h, w] a camera, turned as its picture: where what the task is about is seen. For `masks`."""
        return {camera: turned(self._seen[f"{camera}_named"]) for camera in CAMERAS}

    def touching(self) -> bool:
        """Whether the gripper touched anything but the robot."""
        return bool(self._seen["touching"])

    def _camera(self, camera: str) -> NDArray[np.float64]:
        """[4, 3], a camera's place and its axes' rotation."""
        number = self.env.sim.model.camera_name2id(camera)
        data = self.env.sim.data
        return np.stack([data.cam_xpos[number], *data.cam_xmat[number].reshape(3, 3)])

    def _named(self, camera: str) -> NDArray[np.bool_]:
        geoms = np.flatnonzero(self._below(self._named_body())[self.env.sim.model.geom_bodyid])
        size = {"width": self.resolution, "height": self.resolution}
        kinds, numbers = np.moveaxis(self.env.sim.render(camera_name=camera, segmentation=True, **size), -1, 0)
        return (kinds == GEOM) & np.isin(numbers, geoms)

    def _touching(self) -> bool:
        model, data = self.env.sim.model, self.env.sim.data
        gripper = self._below(model.body_name2id(self.env.env.robots[0].gripper.root_body))
        robot = self._below(model.body_name2id(self.env.env.robots[0].robot_model.root_body))
        bodies = [[int(model.geom_bodyid[g]) for g in (c.geom1, c.geom2)] for c in data.contact[: data.ncon]]
        return any(gripper[one] and not robot[other] for a, b in bodies for one, other in ((a, b), (b, a)))

    def _named_body(self) -> int:
        """The body of an object or a fixture, or the one that a region belongs to, as a drawer."""
        known = self.env.env.obj_body_id
        if self.named in known:
            return int(known[self.named])
        model = self.env.sim.model
        return int(model.site_bodyid[model.site_name2id(self.named)])

    def _below(self, body: int) -> NDArray[np.bool_]:
        """A flag a body of the model: whether it is that one, or is carried by it."""
        parents = self.env.sim.model.body_parentid
        found = np.zeros(len(parents), dtype=np.bool_)
        found[body] = True
        # Parents come before their children.
        for child in range(body + 1, len(parents)):
            found[child] = found[parents[child]]
        return found


def suite_of(name: str) -> Any:
    """LIBERO's suite. Raises ValueError naming those that are there."""
    from libero.libero import benchmark

    if name not in LIMITS:
        raise ValueError(f"no suite {name!r}: choose one of {', '.join(LIMITS)}")
    return benchmark.get_benchmark_dict()[name]()


def scene_of(suite: str, task: int) -> str:
    """The file that describes a task. Raises ValueError for a task that the suite does not have."""
    from libero.libero import get_libero_path

    tasks = suite_of(suite)
    if not 0 <= task < tasks.n_tasks:
        raise ValueError(f"task {task}: {suite} has tasks 0 to {tasks.n_tasks - 1}")
    found = tasks.get_task(task)
    return str(Path(get_libero_path("bddl_files"), found.problem_folder, found.bddl_file))


def target_of(suite: str, task: int) -> str | None:
    """The first object that a task names as of interest and that lies loose; None where there is none, as for a drawer
    that is to be opened.
    """
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    problem = robosuite_parse_problem(scene_of(suite, task))
    loose = {name for names in problem["objects"].values() for name in names}
    return next((name for name in problem["obj_of_interest"] if name in loose), None)


def named_of(suite: str, task: int) -> str:
    """What a task is about: its `target_of`, or else the first fixture or region that it names as of interest."""
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    return target_of(suite, task) or str(robosuite_parse_problem(scene_of(suite, task))["obj_of_interest"][0])
