"""Episodes of a policy in LIBERO: what is executed, logged and counted. An error of the policy is no failure of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.digests import write_whole
from runners.libero_world.messages import Observation
from runners.reach_world.evaluate import read_log

ERROR = "error"
"""The outcome of an episode that the policy could not go on with."""


class PolicyError(Exception):
    """The policy raised, or gave something that is no chunk: the episode is over, the next one may go well."""


class Policy(Protocol):
    """What is evaluated, as in runners/reach_world; here only the number of executed actions is told, since the policy
    has made them ready for the robot itself.
    """

    notes: dict[str, Any]
    execute_steps: int
    replans: bool

    def begin(self, seed: int) -> None: ...

    def act(self, observation: Observation, executed: int) -> NDArray[np.float32]:
        """A chunk [H, 7] that the robot can carry out as it is."""

    def interrupt(self, observation: Observation, executed: int) -> bool: ...


class World(Protocol):
    """`world.LiberoWorld` after `begin`."""

    seed: int
    step_count: int
    moved_at: int | None

    @property
    def done(self) -> bool: ...
    def tip(self) -> NDArray[np.float64]: ...
    def place(self) -> NDArray[np.float64]: ...
    def observe(self) -> Observation: ...
    def step(self, action: ArrayLike) -> None: ...
    def facts(self) -> dict[str, Any]: ...


def run_episode(policy: Policy, world: World) -> dict[str, Any]:
    """One episode as plain data, with the keys of runners/reach_world's logs; `error` says why one was given up."""
    chunk, executed = np.empty((0, 0), np.float32), 0
    trace: list[dict[str, Any]] = []
    error = None
    try:
        policy.begin(world.seed)
        while not world.done:
            queued, interrupted, policy.notes, seconds = executed < len(chunk), False, {}, 0.0
            if not queued or policy.replans:
                observation = world.observe()
                began = time.perf_counter()
                interrupted = queued and policy.interrupt(observation, executed)
                if interrupted or not queued:
                    chunk = checked(policy.act(observation, executed), policy.execute_steps, world.step_count)
                    executed, queued = 0, False
                seconds = time.perf_counter() - began
            trace.append(_row(world, policy, chunk[executed], not queued, interrupted, seconds))
            world.step(chunk[executed])
            executed += 1
    except PolicyError as caught:
        error = str(caught)
    facts = world.facts() | ({} if error is None else {"outcome": ERROR, "error": error, "success": False})
    moved = world.moved_at
    return {
        **facts,
        "recovery_steps": facts["steps"] - moved if facts["success"] and moved is not None else None,
        "policy_seconds": round(sum(row["seconds"] for row in trace), 6),
        "samplings": sum(row["sampled"] for row in trace),
        "interruptions": sum(row["interrupted"] for row in trace),
        "trace": trace,
    }


def checked(chunk: NDArray[np.float32], execute_steps: int, step: int) -> NDArray[np.float32]:
    """The first k actions of a chunk. Raises PolicyError naming the step for what is none."""
    if chunk.ndim != 2 or chunk.shape[1] != 7 or len(chunk) < execute_steps:
        raise PolicyError(f"step {step}: a chunk of shape {chunk.shape}; wants [{execute_steps} or more, 7]")
    if not np.isfinite(chunk).all():
        raise PolicyError(f"step {step}: the policy's chunk holds numbers that are not finite")
    return chunk[:execute_steps]


def _row(
    world: World, policy: Policy, action: NDArray[np.float32], sampled: bool, interrupted: bool, seconds: float
) -> dict[str, Any]:
    row = {"step": world.step_count, "sampled": sampled, "interrupted": interrupted, "seconds": round(seconds, 6)}
    row |= {"action": _plain(action), "tip": _plain(world.tip()), "target": _plain(world.place())}
    return row | ({"notes": dict(policy.notes)} if policy.notes else {})


def _plain(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 5) for value in values]


def completed(episodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The episodes that came to an end of their own: what success rates are counted over."""
    return [episode for episode in episodes if episode["outcome"] != ERROR]


def tally(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many there were, and what became of them.

    `success_rate` is over all, an error being no success; `success_rate_completed` over those without an error, None
    where there are none. `not_moved`: the target was to be moved and no place was found, or the episode was over.
    """
    ended = completed(episodes)
    successes = sum(episode["success"] for episode in ended)
    return {
        "episodes": len(episodes),
        "successes": successes,
        "errors": len(episodes) - len(ended),
        "error_kinds": dict(Counter(episode["error"] for episode in episodes if episode["outcome"] == ERROR)),
        "not_moved": sum(e["move_step"] is not None and e["moved_at"] is None for e in ended),
        "success_rate": successes / len(episodes) if episodes else None,
        "success_rate_completed": successes / len(ended) if ended else None,
    }


def write_log(log: Path, episodes: Sequence[Mapping[str, Any]]) -> None:
    """A JSON line an episode; written whole or not at all."""
    write_whole(log, "".join(json.dumps(episode) + "\n" for episode in episodes))


def continued(
    log: Path,
    count: int,
    play: Callable[[int], dict[str, Any]],
    told: Callable[[Sequence[Mapping[str, Any]]], None] = lambda episodes: None,
) -> list[dict[str, Any]]:
    """The episodes 0 to `count` - 1 of a world, in `log` once they all are played; those of a run that was stopped lie
    beside it, and are not played again. An episode depends on its number and not on those before it. `told` hears what
    there is at the beginning and after each episode.
    """
    begun = log.with_name(f"{log.name}.begun")
    episodes = read_log(begun) if begun.exists() else []
    told(episodes)
    for episode in range(len(episodes), count):
        episodes.append(play(episode))
        write_log(begun, episodes)
        told(episodes)
    write_log(log, episodes)
    begun.unlink(missing_ok=True)
    return episodes
