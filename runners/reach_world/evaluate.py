"""Closed-loop episodes: a policy gives chunks, the first k actions of each are executed, each step is observed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runners.digests import write_whole
from runners.reach_world.camera import FRONT, Camera
from runners.reach_world.layout import CALM, Disturbances
from runners.reach_world.world import ACTION_DIM, Observation, ReachWorld

WORLDS = {
    "calm": CALM,
    "moved": Disturbances(move_step=6),
    "offset": Disturbances(tool_offset=0.035),
}
"""The worlds of the comparison: nothing goes wrong; the named object is moved 7 to 11 cm before control step 6; the tip
is 3.5 cm off."""


class Policy(Protocol):
    """What is evaluated. `notes` holds numbers of the last call for the log; the evaluator empties it before each."""

    notes: dict[str, Any]

    def begin(self, seed: int) -> None:
        """An episode begins: forget the last one. Whatever is random is to come from `seed`."""

    def act(self, observation: Observation, executed: NDArray[np.float32]) -> NDArray[np.float32]:
        """A chunk [H, 3]. `executed` [n, 3] are the actions of the last chunk that were carried out, clipped as they
        were; [0, 3] at the start.
        """

    def interrupt(self, observation: Observation, executed: NDArray[np.float32]) -> bool:
        """Asked at every control step at which actions are still queued: whether to drop them and sample anew."""


def run_episode(
    policy: Policy,
    seed: int,
    disturbances: Disturbances = CALM,
    *,
    execute_steps: int,
    limit: int = 30,
    cameras: Sequence[Camera] = (FRONT,),
    watch: Callable[[ReachWorld], None] | None = None,
) -> dict[str, Any]:
    """One episode as plain data: `ReachWorld.facts`, `recovery_steps` (control steps from the target's move to success,
    None without either), `policy_seconds`, `samplings`, and under `trace` a row for every control step. `watch` is
    called before each step and after the last.

    Raises ValueError for execute_steps below 1, and naming the step for a chunk that is shorter or not finite.
    """
    if execute_steps < 1:
        raise ValueError(f"execute_steps={execute_steps}: at least one action of a chunk is executed")
    world = ReachWorld(seed, disturbances, cameras=cameras, limit=limit)
    policy.begin(seed)
    chunk, executed = np.empty((0, ACTION_DIM), np.float32), np.empty((0, ACTION_DIM), np.float32)
    trace: list[dict[str, Any]] = []
    while not world.done:
        if watch is not None:
            watch(world)
        observation = world.observe()
        queued, policy.notes = len(executed) < len(chunk), {}
        began = time.perf_counter()
        interrupted = queued and policy.interrupt(observation, executed)
        sampled = interrupted or not queued
        if sampled:
            chunk = np.asarray(policy.act(observation, executed), dtype=np.float32)
        seconds = time.perf_counter() - began
        if sampled:
            chunk, executed = _checked(chunk, execute_steps, world.step_count), executed[:0]
        action = np.clip(chunk[len(executed)], -1.0, 1.0)
        world.step(action)
        executed = np.concatenate([executed, action[None]])
        row = {"step": observation.step, "sampled": sampled, "interrupted": interrupted, "seconds": round(seconds, 6)}
        row |= {"action": _plain(action), "tip": _plain(world.tip()), "target": _plain(world.target())}
        trace.append(row | ({"notes": policy.notes} if policy.notes else {}))
    if watch is not None:
        watch(world)
    recovered = world.step_count - world.moved_at if world.success and world.moved_at is not None else None
    return {
        **world.facts(),
        "recovery_steps": recovered,
        "policy_seconds": round(sum(row["seconds"] for row in trace), 6),
        "samplings": sum(row["sampled"] for row in trace),
        "interruptions": sum(row["interrupted"] for row in trace),
        "trace": trace,
    }


def _checked(chunk: NDArray[np.float32], execute_steps: int, step: int) -> NDArray[np.float32]:
    if chunk.ndim != 2 or chunk.shape[1] != ACTION_DIM or len(chunk) < execute_steps:
        raise ValueError(
            f"step {step}: a chunk of shape {chunk.shape}; wants [at least {execute_steps}, {ACTION_DIM}], "
            "or a smaller execute_steps"
        )
    if not np.isfinite(chunk).all():
        raise ValueError(f"step {step}: the policy's chunk holds numbers that are not finite")
    return chunk[:execute_steps]


def _plain(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 5) for value in values]


def evaluate(
    policy: Policy,
    seeds: Iterable[int],
    disturbances: Disturbances,
    log: Path,
    *,
    execute_steps: int,
    limit: int = 30,
    cameras: Sequence[Camera] = (FRONT,),
) -> list[dict[str, Any]]:
    """The episodes of `seeds`, a JSON line each in `log`, which is written whole or not at all."""
    episodes = [
        run_episode(policy, seed, disturbances, execute_steps=execute_steps, limit=limit, cameras=cameras)
        for seed in seeds
    ]
    write_whole(log, "".join(json.dumps(episode) + "\n" for episode in episodes))
    return episodes


def read_log(log: Path) -> list[dict[str, Any]]:
    """The episodes of a log. Raises ValueError naming the file and the line that is none."""
    found = []
    for number, line in enumerate(log.read_text(encoding="utf-8").splitlines(), 1):
        try:
            episode = json.loads(line)
            episode["success"], episode["trace"], episode["policy_seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{log}, line {number} is no episode: {type(error).__name__}: {error}") from None
        found.append(episode)
    return found


def figures(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of one policy in one world: `success` and `wrong` (another object was touched) as shares; `steps` of the
    successes and `recovery_steps`, means (None without any); `sampling_ms`, mean wall time of a control step in which a
    chunk was sampled; `control_hz`, control steps a second of the policy's own time; `interruptions` an episode.

    Raises ValueError without episodes.
    """
    if not episodes:
        raise ValueError("no episodes, no figures")
    steps = [row for episode in episodes for row in episode["trace"]]
    sampling = [row["seconds"] for row in steps if row["sampled"]]
    return {
        "success": _mean([float(episode["success"]) for episode in episodes]),
        "wrong": _mean([float(episode["outcome"] == "wrong object") for episode in episodes]),
        "steps": _mean([episode["steps"] for episode in episodes if episode["success"]]),
        "recovery_steps": _mean([e["recovery_steps"] for e in episodes if e["recovery_steps"] is not None]),
        "sampling_ms": _mean([1000 * seconds for seconds in sampling]),
        "control_hz": len(steps) / max(sum(episode["policy_seconds"] for episode in episodes), 1e-9),
        "interruptions": _mean([episode["interruptions"] for episode in episodes]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
