"""The tables of docs/methods/sagr_flow.md have every key with its default, and every metric."""

from __future__ import annotations

import re

import pytest
from sagr.config import defaults, feedback_defaults
from test_sagr_config import leaves

from tests.standins.starvla_project import REPOSITORY

METRICS = {
    "debug/timing": "train_vlm_t_ms train_vlm_tk_ms train_vlm_total_ms train_temporal_sync_ms train_action_head_ms "
    "train_forward_total_ms vlm_forward_ratio temporal_sync_ratio vlm_tk_over_vlm_t",
    "debug/sagr": "mse_dyn delta_z_norm_mean geo_energy_mean E_geo rho_da drift_l2_mean feedback_token_num "
    "feedback_token_norm_mean",
    "debug/grad_norm": "geo_group_l2 cfm_group_l2 geo_over_cfm_ratio_proxy",
    "debug/causal_feedback": "enabled applied token_num delta_z_norm_mean token_norm_mean",
    "timing": "perception_ms geometric_latency_ms drift_response_lag_ms effective_control_hz drift_freshness_ms_est "
    "command_overlap_ratio_est phase_shift_steps_est",
    "geo": "delta_z_norm_trace energy_trace drift_action_cos_trace",
}


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    page = (REPOSITORY / "docs" / "methods" / "sagr_flow.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"## Configuration and metrics\n(.*?)\n## ", page, re.DOTALL)
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


def test_every_key_has_a_row_with_its_default(rows: list[list[str]]) -> None:
    plain = defaults()
    told = {}
    for key in leaves(plain):
        group, _, name = key.rpartition(".")
        told[key] = (plain[group] if group else plain)[name]
    told |= feedback_defaults()
    assert {row[0]: row[1] for row in rows if len(row) == 3} == {f"`{key}`": f"`{told[key]}`" for key in told}


def test_every_metric_has_a_row(rows: list[list[str]]) -> None:
    names = [f"`{group}/{name}`" for group, names in METRICS.items() for name in names.split()]
    assert [row[0] for row in rows if len(row) == 2] == names
