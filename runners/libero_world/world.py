"""One task of LIBERO as a controller lives it, in episodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.libero_world.task import LIMITS, RESOLUTION, SEED, LiberoTask, suite_of, target_of

MOVE = (0.04, 0.08)
"""Least and greatest distance in metres by which the target is moved."""
TRIES = 48


class LiberoWorld(LiberoTask):
    """A task whose episodes are begun one after the other; each begins at one of LIBERO's own initial states.

    `target` is the task's object, of `target_of`. Raises ValueError for a suite or a task that LIBERO does not have,
    and for a task without a loose object.
    """

    def __init__(self, suite: str, task: int, *, limit: int | None = None, resolution: int = RESOLUTION) -> None:
        target = target_of(suite, task)
        if target is None:
            raise ValueError(f"task {task} of {suite} is about no loose object: nothing can be moved or followed")
        super().__init__(suite, task, resolution=resolution)
        self.target = target
        self.limit = LIMITS[suite] if limit is None else limit
        self.initial_states = suite_of(suite).get_task_init_states(task)

    def begin(self, episode: int, move_step: int | None = None) -> None:
        """Begins an episode. `move_step`: the control step before which the target is moved (None: never), in a
        direction that task and episode decide.

        Raises ValueError for an episode without an initial state.
        """
        if not 0 <= episode < len(self.initial_states):
            raise ValueError(f"episode {episode}: {self.suite} has {len(self.initial_states)} initial states of a task")
        # A reset draws what no initial state holds: let it be the same for all arms and worlds, whatever came before.
        self.settle(self.initial_states[episode], SEED + episode)
        self.episode, self.move_step = episode, move_step
        self.moved_at: int | None = None

    @property
    def seed(self) -> int:
        """Of the episode: what is random in it, in the world and in the policy, comes from this number."""
        return 1000 * self.task + self.episode

    @property
    def done(self) -> bool:
        return self.success or self.step_count >= self.limit

    def step(self, action: ArrayLike) -> None:
        """`act`, the target being moved before it where it is time. Raises ValueError as `act` does, and at the end."""
        if self.done:
            raise ValueError(f"the episode ended at step {self.step_count}: begin another")
        if self.step_count == self.move_step and self.move_target():
            self.moved_at = self.step_count
        self.act(action)

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
