"""`predict_action` and `forward` of the framework on the grafted stand-in: what does not fit is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from in_process import untrained
from PIL import Image
from toy import Toy

from bench.closed_loop_policy import EXECUTE, HORIZON, WIDTH
from tests.standins.starvla_project import StarVLAProject

ACTION, STATE = 3, 4


@pytest.fixture(scope="module")
def policy(project: StarVLAProject, toy: Toy) -> Iterator[Any]:
    """With guidance and feedback tokens."""
    with untrained(project, toy, "feedback", {"guidance": {"enabled": True}}) as made:
        yield made


def example(seed: int = 0, **changes: object) -> dict[str, Any]:
    """A change of None takes the key away."""
    rng = np.random.default_rng(seed)
    found = {
        "image": [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))],
        "depth": [rng.uniform(0.3, 1.0, (16, 16)).astype(np.float32)],
        "intrinsics": [np.array([[16.0, 0, 7.5], [0, 16.0, 7.5], [0, 0, 1]])],
        "lang": "touch the cube",
        "state": rng.normal(size=(1, STATE)),
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def sampled(policy: Any, examples: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    return policy.predict_action(examples, **options)


def feedback(*shape: int, value: float = 0.0) -> np.ndarray:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lang": 5}, r"example\(s\) \[0\]: 'lang' is of type int, it must be one string"),
        ({"lang": ["touch"]}, r"'lang' is of type list"),
        ({"image": None}, r"example\(s\) \[0\] have no 'image'"),
        ({"state": None}, r"example\(s\) \[0\] have no 'state': framework.action_model.state_dim is 4"),
        ({"state": np.full((1, STATE), np.nan)}, r"example\(s\) \[0\]: 'state' holds NaN"),
        ({"depth": [np.full((16, 16), 1e30, np.float32)]}, "example 0, key 'depth': it holds lengths above"),
        ({"named_mask": [np.ones((16, 16), bool)]}, "example 1, view 0 has no 'named_mask', others"),
        ({"camera_pose": [np.eye(4)]}, "example 1, view 0 has no 'camera_pose', others"),
    ],
)
def test_examples_that_do_not_fit_are_named(policy: Any, change: dict[str, Any], says: str) -> None:
    """Also where it is the first of the batch."""
    with pytest.raises(ValueError, match=says):
        policy.predict_action([example(0, **change), example(1)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executed": 3.0}, "executed is 3.0: it must be a whole number, or 2 of them"),
        ({"executed": True}, "executed is True: it must be a whole number"),
        ({"executed": [3, 3, 3]}, "it must be a whole number, or 2 of them"),
        ({"executed": HORIZON}, f"it must be a number from 1 to {HORIZON - 1}"),
        (
            {"feedback_tokens": feedback(2, 5, WIDTH)},
            rf"feedback_tokens are \[2, 5, 64\], they must be \[2, 1, {WIDTH}\]",
        ),
        ({"feedback_tokens": feedback(2, WIDTH)}, r"feedback_tokens are \[2, 64\], they must be"),
        ({"feedback_tokens": feedback(1, 1, WIDTH)}, r"feedback_tokens are \[1, 1, 64\], they must be"),
        ({"feedback_tokens": feedback(2, 1, WIDTH, value=np.nan)}, "feedback_tokens hold NaN or inf"),
    ],
)
def test_arguments_that_do_not_fit_are_named(policy: Any, options: dict[str, Any], says: str) -> None:
    plan = sampled(policy, [example(0), example(1)])["plan"]
    with pytest.raises(ValueError, match=says):
        policy.predict_action([example(2), example(3)], plan=plan, **options)


def test_an_empty_batch_is_named(policy: Any) -> None:
    for call in (policy.predict_action, policy.task_tokens, policy):
        with pytest.raises(ValueError, match="no example in the batch"):
            call([])


def test_a_plan_of_another_instruction_is_refused(policy: Any) -> None:
    plan = sampled(policy, [example(0), example(1)])["plan"]
    with pytest.raises(ValueError, match=r"example\(s\) \[1\] have another instruction .*start without a plan"):
        policy.predict_action([example(2), example(3, lang="touch the ball")], plan=plan)
    again = sampled(policy, [example(2), example(3)], plan=plan)["plan"]
    assert again.instructions == ("touch the cube",) * 2
    assert again.step == EXECUTE


def test_numbers_of_numpy_are_numbers(policy: Any) -> None:
    plan = sampled(policy, [example(0)])["plan"]
    plain = sampled(policy, [example(1)], plan=plan, executed=3)
    for three in (np.int64(3), np.array([3]), [3]):
        other = sampled(policy, [example(1)], plan=plan, executed=three)
        assert np.array_equal(other["normalized_actions"], plain["normalized_actions"])
        assert other["plan"].step == plain["plan"].step == 3


def test_the_debug_trace_is_the_observed_residual(policy: Any) -> None:
    first = sampled(policy, [example(0)], return_debug_info=True)
    assert first["debug"]["geo/delta_z_norm_trace"] == []
    assert first["debug"]["timing/effective_control_hz"] > 0
    second = sampled(policy, [example(1)], plan=first["plan"], executed=3, return_debug_info=True)
    plan, (tokens, _) = first["plan"], policy.task_tokens([example(1)])
    with torch.no_grad():
        expected = policy.world_predictor(plan.tokens, plan.state, plan.actions, torch.arange(HORIZON)[None] < 3)
    residual = float((tokens - expected).double().square().sum().sqrt())
    assert second["debug"]["geo/delta_z_norm_trace"] == pytest.approx([residual], rel=1e-5)
    assert len(second["debug"]["geo/energy_trace"]) == policy.action_model.num_inference_timesteps


def test_actions_that_are_not_finite_are_not_handed_out(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(layers: list[torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
        chunk = torch.zeros(len(layers[0]), HORIZON, ACTION)
        chunk[1, 2] = torch.nan
        return chunk

    monkeypatch.setattr(policy.action_model, "predict_action", broken)
    with pytest.raises(RuntimeError, match=r"example\(s\) \[1\]: the sampled actions hold NaN or inf"):
        policy.predict_action([example(0), example(1)])


def transition(seed: int, **changes: object) -> dict[str, Any]:
    """An example for training, with the next frame and the chunk before."""
    rng = np.random.default_rng(seed)
    frames = {f"{key}{end}": example(seed)[key] for key in ("depth", "image") for end in ("_tk", "_tp")}
    chunks = {key: rng.uniform(-1, 1, (HORIZON, ACTION)).astype(np.float32) for key in ("action", "action_tp")}
    flags = {"valid_tk": 1.0, "valid_tp": 1.0, "offset_tk": 4, "offset_tp": 4}
    return {**example(seed), **frames, **chunks, **flags, **changes}


BAD = np.full((HORIZON, ACTION), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action": BAD}, r"example\(s\) \[0\]: 'action' holds NaN"),
        ({"action_tp": BAD}, r"example\(s\) \[0\]: 'action_tp' holds NaN"),
        ({"valid_tk": np.nan}, r"example\(s\) \[0\]: 'valid_tk' holds NaN"),
        ({"valid_tp": np.nan}, r"example\(s\) \[0\]: 'valid_tp' holds NaN"),
        ({"state": None}, r"example\(s\) \[0\] have no 'state'"),
        ({"image": None}, r"example\(s\) \[0\] have no 'image'"),
    ],
)
def test_training_examples_that_do_not_fit_are_named(policy: Any, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        policy([transition(0, **change), transition(1)])


def test_what_is_not_valid_may_hold_anything(policy: Any) -> None:
    got = policy([transition(0, action_tp=BAD, valid_tp=0.0), transition(1)])
    assert torch.isfinite(got["action_loss"])
