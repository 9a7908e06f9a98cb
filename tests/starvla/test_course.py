"""The course of a plan: what the next sampling is given, and when the queue is cleared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sagr.course import Course
from sagr.plan import Plan
from sagr.replan import ReplanningController, residual_ratio
from small_worlds import A, H, Reaching

GAIN, FLOOR = 0.5, 0.1


def plan() -> Plan:
    """One robot whose two slots lie 3 and -3 from it, in each dimension, and whose plan moves it by one each step."""
    start = torch.tensor([3.0, -3.0]).double()[None, :, None].expand(1, 2, A).clone()
    return Plan(start, None, torch.ones(1, H, A).double(), 0)


def course(steps: int = 3) -> Course:
    made = Course(Reaching(GAIN), ReplanningController(steps, tau=2.5, max_restarts=1, floor=FLOOR))
    made.begin()
    return made


def test_the_next_sampling_is_given_what_was_carried_out() -> None:
    made = course()
    assert made.given(torch.empty(0, A)) == {}
    made.sampled(plan(), plan().actions[0])
    given = made.given(torch.full((2, A), 0.25).numpy())
    assert given["executed"] == 2
    assert given["plan"].actions[0, :, 0].tolist() == [0.25, 0.25, 1.0, 1.0, 1.0]
    assert torch.equal(made.plan.actions, plan().actions)
    with pytest.raises(ValueError, match=rf"{H + 1} actions carried out of {H}"):
        made.given(torch.zeros(H + 1, A))


def test_each_observation_is_held_against_the_one_before() -> None:
    made = course()
    made.sampled(plan(), plan().actions[0])
    first = plan().tokens - GAIN
    assert not made.restart(1, first, None, torch.ones(1, A))
    # Carried out by half, and seen to be: no surprise, though the plan as it was sampled had gone further.
    second = first - GAIN / 2
    assert not made.restart(2, second, None, torch.tensor([[1.0] * A, [0.5] * A]))
    assert made.controller.log[-1]["rrr"] == pytest.approx(0.0, abs=1e-12)
    assert made.latest.step == 2
    assert made.latest.length == H - 2


def test_a_jump_clears_the_queue_and_a_new_chunk_fills_it() -> None:
    made = course()
    made.sampled(plan(), plan().actions[0])
    seen = plan().tokens - GAIN + 4.0
    expected = replace(plan(), actions=plan().actions).compare(Reaching(GAIN), seen, 1)
    assert made.restart(1, seen, None, torch.ones(1, A))
    assert made.controller.log[-1]["rrr"] == pytest.approx(residual_ratio(expected, FLOOR).item())
    assert made.controller.empty
    made.sampled(plan(), plan().actions[0])
    assert made.latest is made.plan
    assert not made.controller.empty
    made.begin()
    assert made.plan is None
    assert made.controller.empty


def test_without_a_controller_or_a_plan_there_is_nothing_to_restart() -> None:
    alone = Course(None)
    alone.sampled(None, torch.ones(H, A))
    assert alone.given(torch.ones(1, A)) == {}
    for empty in (alone, course()):
        with pytest.raises(ValueError, match="nothing to restart"):
            empty.restart(1, plan().tokens, None, torch.ones(1, A))
