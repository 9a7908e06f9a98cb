"""RRR by hand, and every decision of the controller."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from sagr.plan import Residual
from sagr.replan import ReplanningController, residual_ratio

K = 4


def residual(observed: float, expected: float = 1.0, start: float = 10.0) -> Residual:
    """One row whose three norms are these."""
    direction = torch.tensor([[[0.6, 0.0], [0.0, 0.8]]], dtype=torch.float64)
    return Residual(observed * direction, expected * direction, start * direction)


def chunk(length: int = 6) -> torch.Tensor:
    return torch.arange(2.0 * length).reshape(length, 2)


def loaded(**options: float) -> ReplanningController:
    controller = ReplanningController(K, **options)
    controller.load(chunk())
    return controller


@pytest.mark.parametrize(
    ("observed", "expected", "start", "ratio"),
    [
        (3.0, 1.0, 10.0, 3.0),
        (0.0, 1.0, 10.0, 0.0),
        (0.5, 2.0, 10.0, 0.25),
        (0.5, 0.0, 10.0, 0.5 / (0.01 * 10.0)),
        (0.5, 0.05, 10.0, 0.5 / (0.01 * 10.0)),
        (0.0, 0.0, 10.0, 0.0),
        (20.0, 0.0, 10.0, 1 / 0.01),
        (20.0, 0.0, 0.0, 1 / 0.01),
        (0.0, 0.0, 0.0, 0.0),
        (1e30, 1e-30, 1e-30, 1 / 0.01),
    ],
)
def test_ratio_by_hand(observed: float, expected: float, start: float, ratio: float) -> None:
    assert residual_ratio(residual(observed, expected, start), 0.01).item() == pytest.approx(ratio, rel=1e-9)


def test_the_ratio_is_of_norms_over_slots_and_dims_row_by_row() -> None:
    difference = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    change = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]])
    assert residual_ratio(Residual(difference, change, change), 1e-3).tolist() == pytest.approx([5.0, 0.5])


def test_a_residual_that_is_not_finite_is_an_error_with_its_rows() -> None:
    difference = torch.zeros(3, 2, 2)
    difference[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        residual_ratio(Residual(difference, torch.ones(3, 2, 2), torch.ones(3, 2, 2)), 1e-3)


def test_the_first_k_actions_are_executed_in_order() -> None:
    controller = loaded()
    taken = [controller.next().tolist() for _ in range(K)]
    assert taken == chunk()[:K].tolist()
    assert controller.empty
    with pytest.raises(RuntimeError, match="queue is empty"):
        controller.next()


@pytest.mark.parametrize(("observed", "decision", "empty"), [(2.5, "continue", False), (2.51, "restart", True)])
def test_above_tau_the_queue_is_cleared(observed: float, decision: str, empty: bool) -> None:
    controller = loaded()
    controller.next()
    assert controller.check(1, residual(observed)) == decision
    assert controller.empty is empty


def test_restarts_in_a_row_are_limited_and_come_back_after_a_whole_chunk() -> None:
    controller = loaded(max_restarts=2)
    decisions = []
    for step in (1, 2, 3):
        controller.next()
        decisions.append(controller.check(step, residual(9.0)))
        if controller.empty:
            controller.load(chunk())
    assert decisions == ["restart", "restart", "exhausted"]
    assert controller.restarts_left == 0
    assert not controller.empty
    while not controller.empty:
        controller.next()
    assert controller.check(6, residual(9.0)) == "scheduled"
    controller.load(chunk())
    assert controller.restarts_left == 2
    controller.next()
    assert controller.check(7, residual(9.0)) == "restart"


def test_the_largest_ratio_passes_the_largest_threshold() -> None:
    controller = loaded(tau=1.99, floor=0.5)
    controller.next()
    assert controller.check(1, residual(1e9)) == "restart"


def test_with_no_restarts_allowed_the_chunk_runs_on() -> None:
    controller = loaded(max_restarts=0)
    controller.next()
    assert controller.check(1, residual(9.0)) == "exhausted"
    assert not controller.empty


def test_every_decision_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    controller = loaded(tau=2.0, max_restarts=1, floor=0.01)
    with caplog.at_level(logging.INFO, logger="sagr.replan"):
        controller.next()
        controller.check(11, residual(1.0))
        controller.next()
        controller.check(12, residual(3.0, expected=0.0))
    lines = [
        {
            "step": 11,
            "rrr": 1.0,
            "residual_norm": 1.0,
            "expected_norm": 1.0,
            "restarts_left": 1,
            "decision": "continue",
        },
        {
            "step": 12,
            "rrr": 30.0,
            "residual_norm": 3.0,
            "expected_norm": 0.0,
            "restarts_left": 0,
            "decision": "restart",
        },
    ]
    assert len(controller.log) == 2
    for line, expected in zip(controller.log, lines, strict=True):
        assert set(line) == {*expected, "threshold"}
        assert line["threshold"] == 2.0
        assert {name: line[name] for name in expected} == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in expected.items()
        }
    said = [json.loads(record.getMessage().removeprefix("replanning ")) for record in caplog.records]
    assert said == controller.log


def test_an_episode_begins_with_nothing_of_the_last() -> None:
    controller = loaded(max_restarts=1)
    controller.next()
    controller.check(1, residual(9.0))
    ended = controller.reset()
    assert [line["decision"] for line in ended] == ["restart"]
    assert controller.log == []
    assert controller.empty
    assert controller.restarts_left == 1
    with pytest.raises(RuntimeError, match="before any chunk"):
        controller.check(0, residual(0.0))


def test_what_cannot_be_is_refused() -> None:
    for options, said in (
        ({"execute_steps": 0}, "execute_steps is 0"),
        ({"execute_steps": K, "tau": 0.0}, "tau is 0.0"),
        ({"execute_steps": K, "max_restarts": -1}, "max_restarts is -1"),
        ({"execute_steps": K, "floor": 0.0}, "floor is 0.0"),
        ({"execute_steps": K, "tau": 2.5, "floor": 0.5}, r"RRR is at most 1 / floor = 2, so nothing would restart"),
        ({"execute_steps": K, "tau": 10.0, "floor": 0.1}, "tau is 10.0 and floor 0.1: RRR is at most"),
    ):
        with pytest.raises(ValueError, match=said):
            ReplanningController(**options)
    controller = loaded()
    with pytest.raises(ValueError, match="still queued"):
        controller.load(chunk())
    with pytest.raises(ValueError, match=r"execute_steps \(4\)"):
        ReplanningController(K).load(chunk(3))
    two = Residual(*(part.repeat(2, 1, 1) for part in vars(residual(1.0)).values()))
    with pytest.raises(ValueError, match="2 rows"):
        controller.check(1, two)
