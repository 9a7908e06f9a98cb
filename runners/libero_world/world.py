"""One task of LIBERO as a controller lives it. Needs LIBERO with its pack, robosuite, and a way to draw (MUJOCO_GL)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.libero_world.camera import axis_angle, camera_pose, intrinsics, metres, turned
from runners.libero_world.messages import Observation

CAMERAS = ("agentview", "robot0_eye_in_hand")
"""In the order of upstream's data: the primary view, the wrist's."""
ACTION_DIM = 7
LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Control steps of an episode of each suite, as in upstream's evaluation."""
RESOLUTION, SEED = 256, 7
"""Pixels a side, and the seed of the first episode's simulator, as upstream's evaluation has them."""
SETTLE, IDLE = 10, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Control steps in which objects come to rest before an episode, and what the robot does meanwhile."""
MOVE = (0.04, 0.08)
"""Least and greatest distance in metres by which the target is moved."""
TRIES = 48


class LiberoWorld:
    """A task whose episodes are begun one after the other; each begins at one of LIBERO's own initial states.

    `target` is the task's object, of `target_of`. Raises ValueError for a suite or a task that LIBERO does not have,
    and for a task without a loose object.
    """

    def __init__(self, suite: str, task: int, *, limit: int | None = None, resolution: int = RESOLUTION) -> None:
        from libero.libero.envs import OffScreenRenderEnv

        target = target_of(suite, task)
        if target is None:
            raise ValueError(f"task {task} of {suite} is about no loose object: nothing can be moved or followed")
        self.suite, self.task, self.target = suite, task, target
        self.limit = LIMITS[suite] if limit is None else limit
        tasks = suite_of(suite)
        self.instruction = str(tasks.get_task(task).language)
        self.initial_states = tasks.get_task_init_states(task)
        self.env = OffScreenRenderEnv(
            bddl_file_name=scene_of(suite, task),
            camera_heights=resolution,
            camera_widths=resolution,
            camera_depths=True,
        )
        self.resolution = resolution

    def close(self) -> None:
        self.env.close()

    def begin(self, episode: int, move_step: int | None = None) -> None:
        """Begins an episode. `move_step`: the control step before which the target is moved (None: never), in a
        direction that task and episode decide.

        Raises ValueError for an episode without an initial state.
        """
        if not 0 <= episode < len(self.initial_states):
            raise ValueError(f"episode {episode}: {self.suite} has {len(self.initial_states)} initial states of a task")
        # A reset draws what no initial state holds: let it be the same for all arms and worlds, whatever came before.
        self.env.seed(SEED + episode)
        self.env.reset()
        self.env.set_init_state(self.initial_states[episode])
        for _ in range(SETTLE):
            self._seen, _, _, _ = self.env.step(list(IDLE))
        self.episode, self.move_step = episode, move_step
        self.step_count, self.success = 0, False
        self.moved_at: int | None = None

    @property
    def seed(self) -> int:
        """Of the episode: what is random in it, in the world and in the policy, comes from this number."""
        return 1000 * self.task + self.episode

    @property
    def done(self) -> bool:
        return self.success or self.step_count >= self.limit

    def tip(self) -> NDArray[np.float64]:
        """[3], where the gripper is in the world."""
        return np.array(self._seen["robot0_eef_pos"], dtype=np.float64)

    def place(self) -> NDArray[np.float64]:
        """[3], where the target's origin is in the world."""
        return np.array(self.env.sim.data.body_xpos[self.env.env.obj_body_id[self.target]], dtype=np.float64)

    def observe(self) -> Observation:
        sim, seen = self.env.sim, self._seen
        extent = sim.model.stat.extent
        near, far = sim.model.vis.map.znear * extent, sim.model.vis.map.zfar * extent
        numbers = {camera: sim.model.camera_name2id(camera) for camera in CAMERAS}
        fingers = np.asarray(seen["robot0_gripper_qpos"])
        state = np.concatenate([self.tip(), axis_angle(seen["robot0_eef_quat"]), fingers]).astype(np.float32)
        return Observation(
            self.step_count,
            self.instruction,
            state,
            images={camera: turned(seen[f"{camera}_image"]) for camera in CAMERAS},
            depth={camera: turned(metres(seen[f"{camera}_depth"][..., 0], near, far)) for camera in CAMERAS},
            intrinsics={
                camera: intrinsics(float(sim.model.cam_fovy[number]), self.resolution, self.resolution)
                for camera, number in numbers.items()
            },
            camera_pose={
                camera: camera_pose(sim.data.cam_xpos[number], sim.data.cam_xmat[number], self.tip())
                for camera, number in numbers.items()
            },
        )

    def step(self, action: ArrayLike) -> None:
        """One control step of a twentieth of a second. Raises ValueError for what is no action, or after the end."""
        wanted = np.asarray(action, dtype=np.float64)
        if wanted.shape != (ACTION_DIM,) or not np.isfinite(wanted).all():
            raise ValueError(f"step {self.step_count}: an action is {ACTION_DIM} finite numbers, not {action!r}")
        if self.done:
            raise ValueError(f"the episode ended at step {self.step_count}: begin another")
        if self.step_count == self.move_step and self.move_target():
            self.moved_at = self.step_count
        self._seen, _, done, _ = self.env.step(wanted.tolist())
        self.success = bool(done)
        self.step_count += 1

    def move_target(self) -> bool:
        """Moves the target sideways by MOVE to where it touches just what it touched before (the table it stands on,
        and nothing else); False where no such place is found, as for an object in the gripper or in a drawer.
        """
        sim, joint = self.env.sim, self.env.env.objects_dict[self.target].joints[-1]
        begun, beside = np.array(sim.data.get_joint_qpos(joint)), self._touched()
        draw = np.random.default_rng([self.seed, 1])
        for _ in range(TRIES):
            angle, length = draw.uniform(0.0, 2 * math.pi), draw.uniform(*MOVE)
            there = begun.copy()
            there[:2] += length * np.array([math.cos(angle), math.sin(angle)])
            self._put(joint, there)
            if self._touched() == beside:
                sim.data.set_joint_qvel(joint, np.zeros(6))
                sim.forward()
                return True
        self._put(joint, begun)
        return False

    def _put(self, joint: str, pose: NDArray[np.float64]) -> None:
        self.env.sim.data.set_joint_qpos(joint, pose)
        self.env.sim.forward()

    def _touched(self) -> set[int]:
        """The bodies that the target is in contact with, each by the number of the one that carries it all."""
        model, data = self.env.sim.model, self.env.sim.data
        own = model.body_rootid[self.env.env.obj_body_id[self.target]]
        pairs = [
            {int(model.body_rootid[model.geom_bodyid[geom]]) for geom in (contact.geom1, contact.geom2)}
            for contact in data.contact[: data.ncon]
        ]
        return {body for pair in pairs if own in pair for body in pair - {own}}

    def facts(self) -> dict[str, Any]:
        """What an episode's log says of it: plain numbers and words."""
        return {
            "seed": self.seed,
            "task": self.task,
            "episode": self.episode,
            "instruction": self.instruction,
            "target": self.target,
            "move_step": self.move_step,
            "moved_at": self.moved_at,
            "success": self.success,
            "outcome": "done" if self.success else "out of time",
            "steps": self.step_count,
        }


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
