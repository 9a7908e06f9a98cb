"""The method on the real tree, through upstream's own trainer."""

from __future__ import annotations

import math
from pathlib import Path

import native
import pytest

METRICS = {
    "debug/timing": {
        *("train_vlm_t_ms", "train_vlm_tk_ms", "train_vlm_total_ms", "train_temporal_sync_ms"),
        *("train_action_head_ms", "train_forward_total_ms", "vlm_forward_ratio", "temporal_sync_ratio"),
        "vlm_tk_over_vlm_t",
    },
    "debug/sagr": {
        *("mse_dyn", "delta_z_norm_mean", "geo_energy_mean", "E_geo", "rho_da", "drift_l2_mean"),
        *("feedback_token_num", "feedback_token_norm_mean"),
    },
    "debug/grad_norm": {"geo_group_l2", "cfm_group_l2", "geo_over_cfm_ratio_proxy"},
    "debug/causal_feedback": {"enabled", "applied", "token_num", "delta_z_norm_mean", "token_norm_mean"},
}


def test_every_metric_is_written_at_every_step(trained: native.Recorded) -> None:
    lines = trained.metrics()
    assert [line["step"] for line in lines] == list(range(1, native.STEPS + 1))
    for line in lines:
        for group, names in METRICS.items():
            assert {key.rpartition("/")[2] for key in line if key.rpartition("/")[0] == group} == names
        assert all(math.isfinite(value) for value in line.values())
        assert line["debug/causal_feedback/applied"] == 1.0
        assert 0 < line["debug/timing/vlm_forward_ratio"] < 1
        assert line["debug/grad_norm/geo_group_l2"] > 0
        assert line["debug/grad_norm/cfm_group_l2"] > 0


def test_the_loss_that_is_trained_is_the_weighted_total(trained: native.Recorded) -> None:
    weights = {"fm": 1.0, "dyn": 0.2, "geo": 0.1, "reg": 1e-3}
    for line, loss in zip(trained.metrics(), trained.losses, strict=True):
        total = math.fsum(weight * line[f"loss/{name}"] for name, weight in weights.items())
        assert line["loss/total"] == float.fromhex(loss) == pytest.approx(total, rel=1e-5)


def test_the_same_seed_gives_the_same_run(
    grafted: Path, materials: Path, trained: native.Recorded, tmp_path: Path
) -> None:
    again = native.train(grafted, tmp_path, materials, *native.ON, framework=native.FRAMEWORK)
    assert again.losses == trained.losses
    assert again.weights == trained.weights
