"""The timing: which observation is compared with which prediction, and that nothing is compared with itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sagr.guidance import ResidualGuidance
from sagr.plan import Plan
from small_worlds import NS, A, B, D, Guidance, H, Reaching, inputs, make_predictor, plan_of


def first(count: int) -> torch.Tensor:
    return (torch.arange(H) < count).expand(B, H)


def shifted(actions: torch.Tensor, count: int) -> torch.Tensor:
    """The actions after the first ``count``; random ones fill up."""
    return torch.cat([actions[:, count:], torch.randn(B, count, A, dtype=actions.dtype)], dim=1)


@pytest.mark.parametrize("executed", [1, 2, H])
def test_expected_and_residual_after_n_actions(executed: int) -> None:
    given, other, predictor = inputs(), inputs(seed=5), make_predictor()
    plan = plan_of(given)
    expected = predictor(given["tokens"], given["state"], given["actions"], first(executed))
    assert torch.equal(plan.expected(predictor, executed), expected)
    assert not plan.expected(predictor, executed).requires_grad
    residual = plan.compare(predictor, other["tokens"], executed)
    torch.testing.assert_close(residual.difference, other["tokens"] - expected)
    torch.testing.assert_close(residual.change, expected - given["tokens"])
    assert torch.equal(residual.start, given["tokens"])


def test_an_advanced_plan_starts_from_the_newest_observation() -> None:
    given, now, later, predictor = inputs(), inputs(seed=5), inputs(seed=6), make_predictor()
    plan = plan_of(given)
    advanced = plan.advanced(now["tokens"], now["state"], 2)
    assert advanced.step == plan.step + 2
    residual = advanced.compare(predictor, later["tokens"], 1)
    alone = predictor(now["tokens"], now["state"], shifted(given["actions"], 2), first(1))
    torch.testing.assert_close(residual.difference, later["tokens"] - alone)
    torch.testing.assert_close(residual.change, alone - now["tokens"])
    twice = plan.advanced(now["tokens"], now["state"], 1).advanced(later["tokens"], later["state"], 1)
    assert torch.equal(twice.actions, advanced.actions)
    assert twice.length == advanced.length == H - 2
    rest = advanced.reference(predictor, later["tokens"], later["state"], 1)
    assert torch.equal(rest.valid, first(H - 3))
    with pytest.raises(ValueError, match=rf"executed is {H - 2}; it must be a number from 1 to {H - 3}"):
        advanced.advanced(later["tokens"], later["state"], H - 2)
    with pytest.raises(ValueError, match=rf"executed is {H}; it must be a number from 1 to {H - 1}"):
        plan.advanced(now["tokens"], now["state"], H)


def test_the_reference_is_what_the_rest_of_the_plan_leads_to() -> None:
    given, now, predictor = inputs(), inputs(seed=5), make_predictor()
    reference = plan_of(given).reference(predictor, now["tokens"], now["state"], 2)
    halfway = predictor(given["tokens"], given["state"], given["actions"], first(2))
    end = predictor(halfway, now["state"], shifted(given["actions"], 2), first(H - 2))
    torch.testing.assert_close(reference.target, end)
    assert torch.equal(reference.tokens, now["tokens"])
    assert torch.equal(reference.state, now["state"])
    assert torch.equal(reference.valid, first(H - 2))


def test_rows_may_have_executed_different_numbers() -> None:
    given, now, predictor = inputs(), inputs(seed=5), make_predictor()
    together = plan_of(given).reference(predictor, now["tokens"], now["state"], [1, 4, 2])
    for row, executed in enumerate([1, 4, 2]):
        alone = plan_of(given).reference(predictor, now["tokens"], now["state"], executed)
        torch.testing.assert_close(together.target[row], alone.target[row])
        assert torch.equal(together.valid[row], alone.valid[row])


def test_without_a_disturbance_the_same_plan_has_no_drift() -> None:
    """o_{t+n} shows just what was predicted, and the candidate is the rest of the old chunk: b = 0 exactly."""
    given, predictor, n = inputs(), make_predictor(), 2
    plan, state = plan_of(given), inputs(seed=5)["state"]
    reference = plan.reference(predictor, plan.expected(predictor, n), state, n)
    chunk, still = shifted(given["actions"], n), torch.zeros(B, H, A, dtype=torch.float64)
    guidance = ResidualGuidance(predictor, Guidance())
    drift = guidance.drift(chunk, still, 1.0, reference)
    assert (drift.energy == 0).all()
    assert (drift.b == 0).all()
    other = guidance.drift(chunk + 0.3, still, 1.0, reference)
    assert (other.energy > 0).all()


def test_a_disturbance_makes_a_drift_that_lowers_the_energy() -> None:
    given, predictor, n = inputs(), make_predictor(), 2
    plan, state = plan_of(given), inputs(seed=5)["state"]
    disturbed = plan.expected(predictor, n) + 0.3 * torch.randn(B, NS, D, dtype=torch.float64)
    reference = plan.reference(predictor, disturbed, state, n)
    chunk, velocity = shifted(given["actions"], n), torch.ones(B, H, A, dtype=torch.float64)
    guidance = ResidualGuidance(predictor, Guidance(eta=1.0))
    drift = guidance.drift(chunk, velocity, 1.0, reference)
    assert (drift.b.flatten(1).norm(dim=1) > 0).all()
    after = guidance.drift(chunk + 0.1 * drift.b, velocity, 1.0, reference)
    assert (after.energy < drift.energy).all()


def test_plan_follows_a_target_that_moved_and_observed_flees_it() -> None:
    """Slots relative to the gripper: a target that moves away by 1 asks for longer actions, whatever explains it for
    shorter ones."""
    world = Reaching()
    actions = torch.full((1, H, A), 0.2, dtype=torch.float64)
    plan = Plan(torch.ones(1, NS, A, dtype=torch.float64), None, actions, 0)
    moved = plan.expected(world, 2) + 1.0
    guidance = ResidualGuidance(world, Guidance())
    towards = guidance.drift(actions, actions, 1.0, plan.reference(world, moved, None, 2)).b
    away = guidance.drift(actions, actions, 1.0, plan.reference(world, moved, None, 2, kind="observed")).b
    assert (towards[:, : H - 2] > 0).all()
    assert (towards[:, H - 2 :] == 0).all()
    assert (away[:, :2] < 0).all()


def test_the_ablation_compares_the_new_observation_with_the_old_start() -> None:
    given, now, predictor = inputs(), inputs(seed=5), make_predictor()
    reference = plan_of(given).reference(predictor, now["tokens"], now["state"], H, kind="observed")
    assert reference.tokens is given["tokens"]
    assert reference.state is given["state"]
    assert reference.target is now["tokens"]
    assert reference.valid.all()


def test_works_under_inference_mode() -> None:
    predictor = make_predictor(torch.float32)
    with torch.inference_mode():
        given, now = inputs(torch.float32), inputs(torch.float32, seed=5)
        reference = plan_of(given).reference(predictor, now["tokens"], now["state"], 2)
        velocity = torch.ones(B, H, A)
        drift = ResidualGuidance(predictor, Guidance()).drift(given["actions"], velocity, 0.0, reference)
    assert (drift.b.flatten(1).norm(dim=1) > 0).all()


def test_what_was_really_executed_may_take_the_planned_actions_place() -> None:
    given, predictor = inputs(), make_predictor()
    clipped = given["actions"].clamp(-0.1, 0.1)
    plan = replace(plan_of(given), actions=clipped)
    expected = predictor(given["tokens"], given["state"], clipped, first(3))
    assert torch.equal(plan.expected(predictor, 3), expected)


@pytest.mark.parametrize(
    ("executed", "kind", "said"),
    [
        (H, "plan", "from 1 to 4"),
        (0, "plan", "from 1 to 4"),
        (H + 1, "observed", "from 1 to 5"),
        ([1, 2], "plan", "3 of them"),
        ([1, 2, 9], "plan", "from 1 to 4"),
        (1, "future", "choose one of plan, observed"),
        (3.0, "plan", "executed is 3.0: it must be a whole number, or 3 of them"),
        (True, "plan", "executed is True: it must be a whole number"),
        ([1, True, 2], "plan", "it must be a whole number"),
        ("3", "plan", "it must be a whole number"),
        ([[1, 2, 3]], "plan", "it must be a whole number"),
        ([[1], 2, 3], "plan", "it must be a whole number"),
    ],
)
def test_numbers_and_kinds_out_of_range_are_refused(executed, kind: str, said: str) -> None:
    given, now = inputs(), inputs(seed=5)
    with pytest.raises(ValueError, match=said):
        plan_of(given).reference(make_predictor(), now["tokens"], now["state"], executed, kind=kind)


@pytest.mark.parametrize("three", [np.int64(3), torch.tensor(3), np.array([3, 3, 3]), torch.tensor([3, 3, 3])])
def test_numbers_may_be_of_numpy_or_torch(three: object) -> None:
    given, predictor = inputs(), make_predictor()
    assert torch.equal(plan_of(given).expected(predictor, three), plan_of(given).expected(predictor, 3))


def test_a_plan_of_other_instructions_is_refused_and_goes_on_knowing_them() -> None:
    given, now = inputs(), inputs(seed=5)
    plan = replace(plan_of(given), instructions=("push", "pull", "lift"))
    for same in (plan, plan.advanced(now["tokens"], now["state"], 1), plan.carried_out(given["actions"][0, :1])):
        same.refuse_other(["push", "pull", "lift"])
        with pytest.raises(ValueError, match=r"example\(s\) \[1, 2\] have another instruction .*'turn' and not 'pull'"):
            same.refuse_other(["push", "turn", "pull"])
    plan_of(given).refuse_other(["whatever"] * B)


def test_the_plans_own_observation_is_refused() -> None:
    given = inputs()
    with pytest.raises(ValueError, match="new observation"):
        plan_of(given).reference(make_predictor(), given["tokens"], given["state"], 1)


def test_another_batch_is_refused() -> None:
    given, now = inputs(), inputs(seed=5)
    with pytest.raises(ValueError, match="task tokens"):
        plan_of(given).compare(make_predictor(), now["tokens"][:2], 1)
    with pytest.raises(ValueError, match="rows"):
        Plan(given["tokens"], given["state"], given["actions"][:1], 0)
