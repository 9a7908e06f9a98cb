"""The trained policy on the real tree: loading, sampling under `inference_mode`, guidance, feedback, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import native
import numpy as np
import pytest
import torch
from observations import DIMENSIONS, HORIZON, example
from omegaconf import OmegaConf

DEBUG = {
    *("timing/perception_ms", "timing/geometric_latency_ms", "timing/effective_control_hz"),
    *("timing/command_overlap_ratio_est", "timing/phase_shift_steps_est"),
    *("geo/delta_z_norm_trace", "geo/energy_trace", "geo/drift_action_cos_trace"),
}
DRIFT = {"timing/drift_response_lag_ms", "timing/drift_freshness_ms_est"}


def sample(policy: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    return policy.predict_action(*arguments, **options)


def test_the_run_folder_has_every_switch(trained: native.Recorded, policy: Any) -> None:
    saved = OmegaConf.load(trained.output / "config.yaml")
    assert saved.framework.sagr.geometry.backend == "depth"
    assert saved.framework.sagr.replan.tau == 2.5
    assert saved.framework.action_model.causal_feedback_scale == 1.0
    assert policy.sagr.guidance.enabled
    assert policy.sagr.dim == 32


def test_the_first_chunk_is_sampled_without_guidance(policy: Any) -> None:
    got = sample(policy, [example(0.0), example(0.5)], return_debug_info=True)
    assert got["normalized_actions"].shape == (2, HORIZON, DIMENSIONS)
    assert got["normalized_actions"].dtype == np.float32
    assert set(got["debug"]) == DEBUG
    assert got["debug"]["geo/energy_trace"] == []
    assert got["plan"].step == 0


def test_the_next_chunk_is_guided_by_the_plan(policy: Any) -> None:
    before = [parameter.requires_grad for parameter in policy.parameters()]
    first = sample(policy, [example(0.0)])
    moved = sample(policy, [example(0.8)], plan=first["plan"], return_debug_info=True)
    assert set(moved["debug"]) == DEBUG | DRIFT
    steps = policy.action_model.num_inference_timesteps
    for name, length in (("delta_z_norm_trace", 1), ("energy_trace", steps), ("drift_action_cos_trace", steps)):
        assert len(moved["debug"][f"geo/{name}"]) == length
    assert min(moved["debug"]["geo/energy_trace"]) > 0
    assert all(-1 <= value <= 1 for value in moved["debug"]["geo/drift_action_cos_trace"])
    assert moved["debug"]["timing/drift_freshness_ms_est"] > moved["debug"]["timing/perception_ms"]
    assert moved["plan"].step == HORIZON // 2
    assert [parameter.requires_grad for parameter in policy.parameters()] == before
    assert all(parameter.grad is None for parameter in policy.parameters())


def unguided(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_reference", lambda *_: None)


def test_guidance_changes_the_actions_and_lowers_the_energy(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sample(policy, [example(0.0)])
    seen = [example(0.8)]
    guided = sample(policy, seen, plan=first["plan"])
    tokens, state = policy.task_tokens(seen)
    reference = first["plan"].reference(policy.world_predictor, tokens, state, HORIZON // 2)
    with monkeypatch.context() as patch:
        unguided(policy, patch)
        plain = sample(policy, seen, plan=first["plan"])
    assert not np.array_equal(guided["normalized_actions"], plain["normalized_actions"])

    def energy(actions: np.ndarray) -> float:
        with torch.no_grad():
            expected = policy.world_predictor(tokens, state, torch.from_numpy(actions), reference.valid)
            return float((reference.target - expected).double().square().mean())

    assert energy(guided["normalized_actions"]) < energy(plain["normalized_actions"])


def test_feedback_tokens_from_the_plan_and_from_outside(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [example(0.8)]
    first = sample(policy, [example(0.0)])
    unguided(policy, monkeypatch)
    without = sample(policy, seen)["normalized_actions"]
    from_plan = sample(policy, seen, plan=first["plan"])["normalized_actions"]
    assert not np.array_equal(from_plan, without)
    plan, (tokens, _) = first["plan"], policy.task_tokens(seen)
    executed = torch.arange(HORIZON)[None] < HORIZON // 2
    with torch.no_grad():
        same = policy.causal_feedback(plan.tokens, tokens, plan.actions, executed=executed)
    assert np.array_equal(sample(policy, seen, feedback_tokens=same)["normalized_actions"], from_plan)
    other = sample(policy, seen, feedback_tokens=(same + 1).numpy())["normalized_actions"]
    assert not np.array_equal(other, from_plan)


def test_rows_do_not_depend_on_each_other(policy: Any) -> None:
    first = sample(policy, [example(0.0), example(0.5)])["plan"]
    both = sample(policy, [example(0.8), example(-0.5)], plan=first)["normalized_actions"]
    swapped = sample(policy, [example(0.8), example(0.1)], plan=first)["normalized_actions"]
    np.testing.assert_allclose(both[0], swapped[0], atol=1e-5)
    assert np.abs(both[1] - swapped[1]).max() > 1e-3


def test_what_is_missing_or_does_not_fit_is_named(policy: Any) -> None:
    good = example(0.0)
    wrong = {
        r"example\(s\) \[1\]: 'lang' is empty": {"lang": " "},
        "example 1 has no 'depth'": {"depth": None},
        "example 1, key 'depth': no valid pixel": {"depth": [np.full((64, 64), np.nan, np.float32)]},
        r"example 1: 'state' is \[1, 3\], it must be \[1, 7\]": {"state": np.zeros((1, 3))},
    }
    for says, change in wrong.items():
        with pytest.raises(ValueError, match=says):
            policy.predict_action([good, {**good, **change}])
    ready = {**good, "action": np.zeros((HORIZON, DIMENSIONS - 1))}
    with pytest.raises(ValueError, match=r"'action' is \[8, 6\], it must be \[8 or more, 7\]"):
        policy([ready])
    ready["action"] = np.zeros((HORIZON, DIMENSIONS))
    with pytest.raises(ValueError, match=r"no 'valid_tk': sagr\.losses w_dyn.*set all to 0"):
        policy([ready])
    ready |= {"valid_tk": 1.0, "depth_tk": ready["depth"], "image_tk": ready["image"]}
    with pytest.raises(ValueError, match=r"no 'valid_tp': action_model\.enable_causal_feedback_token needs"):
        policy([ready])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("framework.action_model.enable_causal_feedback_token=false", "the checkpoint has causal_feedback, this model"),
        ("framework.sagr.anchor.enabled=false", "the checkpoint has fusion_module.anchor, this model does not: set"),
    ],
)
def test_a_checkpoint_of_other_switches_names_the_switch(
    change: str, says: str, trained: native.Recorded, policy: Any, tmp_path: Path
) -> None:
    refuse(trained, tmp_path, change, says)


def test_a_checkpoint_of_qwenpi_names_the_back_end(
    baseline: native.Recorded, trained: native.Recorded, policy: Any, tmp_path: Path
) -> None:
    settings = OmegaConf.load(trained.output / "config.yaml")
    says = "this model has geometry_encoder, the checkpoint does not: set framework.sagr.geometry.backend"
    refuse(baseline, tmp_path, OmegaConf.to_yaml(settings), says)


def refuse(run: native.Recorded, folder: Path, change: str, says: str) -> None:
    """Loads the run's checkpoint with a changed configuration: dotted, or a whole one as YAML."""
    from starVLA.model.framework.base_framework import baseframework

    whole = "\n" in change
    settings = OmegaConf.create(change) if whole else OmegaConf.load(run.output / "config.yaml")
    if not whole:
        settings = OmegaConf.merge(settings, OmegaConf.from_dotlist([change]))
    (folder / "final_model").mkdir()
    (folder / "final_model" / "pytorch_model.pt").symlink_to(run.output / "final_model" / "pytorch_model.pt")
    (folder / "dataset_statistics.json").symlink_to(run.output / "dataset_statistics.json")
    OmegaConf.save(settings, folder / "config.yaml")
    with pytest.raises(RuntimeError, match=says):
        baseframework.from_pretrained(str(folder / "final_model" / "pytorch_model.pt"))


def test_sampling_that_knows_no_task_tokens_is_refused(policy: Any) -> None:
    """Newer commits of upstream have another way to sample, which would go past the method without a word."""
    with pytest.raises(NotImplementedError, match="predict_action_realtime knows no task tokens"):
        policy.predict_action_realtime([example(0.0)])
