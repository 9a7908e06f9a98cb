"""How bench/closed_loop.py plays the framework, on the grafted stand-in in the world of runners/reach_world, and what
it reads of surprises from the logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mujoco")

import numpy as np
import torch
from in_process import untrained
from toy import Toy

from bench.closed_loop import surprises
from bench.closed_loop_policy import EXECUTE, STATE_SCALE, FrameworkPolicy
from runners.reach_world.evaluate import WORLDS, run_episode
from runners.reach_world.record import example_of
from runners.reach_world.world import ReachWorld
from tests.standins.starvla_project import StarVLAProject

FLOOR = 0.1


@pytest.fixture(scope="module")
def framework(project: StarVLAProject, toy: Toy) -> Iterator[Any]:
    """With an anchor."""
    with untrained(project, toy, "anchor", {"replan": {"floor": FLOOR}}) as made:
        yield made


class Asked:
    """The framework, and what `predict_action` was asked with."""

    def __init__(self, framework: Any, **replan: float) -> None:
        self.framework, self.calls = framework, []
        settings = {"tau": 2.5, "max_restarts": 2, "floor": FLOOR, **replan}
        self.sagr = SimpleNamespace(replan=SimpleNamespace(**settings))
        self.world_predictor, self.task_tokens = framework.world_predictor, framework.task_tokens

    def predict_action(self, examples: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
        self.calls.append((examples, given))
        return self.framework.predict_action(examples, **given)


def play(asked: Asked, replan: bool, steps: int, seed: int = 3) -> dict[str, Any]:
    return run_episode(FrameworkPolicy(asked, replan), seed, execute_steps=EXECUTE, limit=steps)


def test_a_chunk_is_sampled_with_the_plan_as_it_was_carried_out(framework: Any) -> None:
    asked = Asked(framework)
    policy = FrameworkPolicy(asked, replan=False)
    for _ in range(2):
        asked.calls.clear()
        episode = run_episode(policy, 3, execute_steps=EXECUTE, limit=EXECUTE + 2)
        (first, nothing), (_, given) = asked.calls
        assert nothing == {}
        state = np.array([*ReachWorld(3).observe().state]) * STATE_SCALE
        np.testing.assert_allclose(first[0]["state"][0], state, rtol=1e-6)
        assert given["executed"] == EXECUTE
        done = np.array([row["action"] for row in episode["trace"][:EXECUTE]])
        np.testing.assert_allclose(given["plan"].actions[0, :EXECUTE], done, atol=1e-5)
        assert [row["step"] for row in episode["trace"] if row["sampled"]] == [0, EXECUTE]
        assert not any("notes" in row for row in episode["trace"])


def test_an_episode_is_the_same_whatever_was_played_before(framework: Any) -> None:
    policy = FrameworkPolicy(Asked(framework), replan=True)
    played = [
        [row["action"] for row in run_episode(policy, seed, execute_steps=EXECUTE, limit=5)["trace"]]
        for seed in (4, 5, 4)
    ]
    assert played[0] == played[2] != played[1]


def test_between_samplings_each_step_is_held_against_the_one_before(framework: Any) -> None:
    """RRR as it is defined, from the world played again, without the plan that the policy keeps."""
    episode = play(Asked(framework, tau=0.999 / FLOOR), True, 6)
    trace, world = episode["trace"], ReachWorld(3, limit=6)
    told = [row["notes"]["rrr"] for row in trace[1:]]
    assert [row["notes"]["decision"] for row in trace[1:]] == ["continue"] * 5
    expected, before = [], None
    for row in trace:
        example = example_of(world.observe())
        tokens, state = framework.task_tokens([{**example, "state": example["state"] * np.float32(STATE_SCALE)}])
        if before is not None:
            start, there, action = before
            with torch.no_grad():
                hat = framework.world_predictor(start, there, action, torch.arange(action.shape[1])[None] < 1)
            error, change = (tokens - hat).norm(), (hat - start).norm()
            least = FLOOR * max(start.norm(), error)
            expected.append(float(error / max(change, least)))
        chunk = torch.zeros(1, framework.action_horizon, 3)
        chunk[0, 0] = torch.tensor(row["action"])
        before = (tokens, state, chunk)
        world.step(row["action"])
    assert told == pytest.approx(expected, rel=1e-3)
    assert max(told) > 0


def test_a_surprise_samples_at_once_while_restarts_are_left(framework: Any) -> None:
    asked = Asked(framework, tau=1e-9)
    episode = play(asked, True, 6)
    assert [row["step"] for row in episode["trace"] if row["interrupted"]] == [1, 2]
    decisions = [row["notes"]["decision"] for row in episode["trace"] if "notes" in row]
    assert decisions == ["restart", "restart", "exhausted", "exhausted", "exhausted"]
    assert [given.get("executed") for _, given in asked.calls] == [None, 1, 1]
    assert episode["interruptions"] == 2


def log(*rrr: float | None, moved_at: int | None = None) -> dict[str, Any]:
    rows = [{"step": step, **({} if value is None else {"notes": {"rrr": value}})} for step, value in enumerate(rrr)]
    return {"moved_at": moved_at, "trace": rows}


def test_surprises_are_undisturbed_steps_and_the_first_sight_of_the_move() -> None:
    calm = {0: [log(None, *range(41)), log(None)], 1: [log(None, *range(41, 101))]}
    # Before step 6 the object jumps: what is seen at step 6 is from before, at step 7 it has moved.
    moved = {
        0: [log(None, *[9.0] * 6, 3.0, 9.0, moved_at=6), log(None, 9.0)],
        1: [log(None, *[9.0] * 6, 5.0, moved_at=6), log(None, 9.0, moved_at=6)],
    }
    arms = {"replanning": {"calm": calm, "moved": moved, "offset": moved}, "baseline": {"calm": {0: [log(None)]}}}
    results = SimpleNamespace(episodes=arms)
    assert surprises(results, "replanning") == {
        "calm": {"0.01": 1.0, "0.05": 5.0, "0.5": 50.0, "0.95": 95.0, "0.99": 99.0, "n": 101},
        "move": {"0.01": 3.02, "0.05": 3.1, "0.5": 4.0, "0.95": 4.9, "0.99": 4.98, "n": 2},
    }
    assert surprises(results, "baseline") == {}
    assert surprises(results, "feedback") is None
    assert WORLDS["moved"].move_step == 6
