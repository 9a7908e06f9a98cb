"""Metrics and timings: names, values against plain arithmetic, and the hook in the trainer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sagr import timing
from sagr.flow import Trace
from sagr.metrics import GradientNorms, Observer, inference_metrics
from sagr.plan import Residual
from sagr.timing import Timer
from sagr.trainer import step_metrics
from torch import nn

TIMINGS = {
    *("train_vlm_t_ms", "train_vlm_tk_ms", "train_vlm_total_ms", "train_temporal_sync_ms", "train_action_head_ms"),
    *("train_forward_total_ms", "vlm_forward_ratio", "temporal_sync_ratio", "vlm_tk_over_vlm_t"),
}
FEEDBACK = {"enabled", "applied", "token_num", "delta_z_norm_mean", "token_norm_mean"}
GRADIENTS = {"geo_group_l2", "cfm_group_l2", "geo_over_cfm_ratio_proxy"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock in seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def pair() -> tuple[nn.Module, dict[str, list[nn.Module]]]:
    torch.manual_seed(0)
    module = nn.ModuleDict({"geo": nn.Linear(3, 3), "cfm": nn.Linear(3, 1)})
    return module, {"geo": [module["geo"]], "cfm": [module["cfm"]]}


def test_the_timer_counts_the_first_mark_of_a_name(clock: list[float]):
    timer = Timer()
    for seconds in (1.0, 3.0, 7.0):
        clock[0] = seconds
        timer.mark("first")
        timer.mark(f"at {seconds:.0f}")
    assert timer.ms("first", "at 7") == 6000.0
    with pytest.raises(KeyError, match="never"):
        timer.ms("first", "never")


def test_a_timer_that_is_off_keeps_nothing():
    timer = Timer(enabled=False)
    timer.mark("a")
    assert "a" not in timer


def test_gradient_norms_are_those_of_the_parameters_gradients():
    module, groups = pair()
    norms = GradientNorms({name: [p for m in parts for p in m.parameters()] for name, parts in groups.items()})
    module["cfm"](module["geo"](torch.ones(2, 3)).tanh()).square().sum().backward()
    expected = {
        name: math.sqrt(sum(float(p.grad.double().square().sum()) for m in parts for p in m.parameters()))
        for name, parts in groups.items()
    }
    assert norms.read() == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0
    module["geo"](torch.ones(2, 3)).sum().backward()
    assert norms.read() == pytest.approx(expected, rel=1e-5), "the hooks are gone"


def recorded(clock: list[float], observer: Observer) -> dict[str, float]:
    """A pass whose moments are a second apart."""
    module, groups = pair()
    timer = observer.begin(module, groups)
    for mark in ("vlm_start", "vlm_end", "sync_start", "middle", "sync_end", "head_start", "head_end", "end"):
        clock[0] += 1.0
        timer.mark(mark)
    record = observer.record
    record.monitors["mse_dyn"] = torch.tensor(0.25)
    record.feedback_enabled = True
    record.feedback_tokens = torch.tensor([[[3.0, 4.0]], [[6.0, 8.0]], [[1.0, 0.0]]])
    record.feedback_delta = torch.tensor([[0.0, 2.0], [0.0, 4.0], [9.0, 0.0]])
    record.feedback_valid = torch.tensor([True, True, False])
    record.losses["total"] = torch.tensor(1.5)
    module["cfm"](module["geo"](torch.ones(2, 3))).sum().backward()
    return record.read()


def test_names_and_values_of_a_training_pass(clock: list[float]):
    found = recorded(clock, Observer())
    group = {
        prefix: {k.rpartition("/")[2] for k in found if k.startswith(f"debug/{prefix}/")}
        for prefix in ("timing", "causal_feedback", "grad_norm")
    }
    assert group == {"timing": TIMINGS, "causal_feedback": FEEDBACK, "grad_norm": GRADIENTS}
    assert found["debug/timing/train_vlm_t_ms"] == found["debug/timing/train_vlm_total_ms"] == 1000.0
    assert found["debug/timing/train_vlm_tk_ms"] == found["debug/timing/vlm_tk_over_vlm_t"] == 0.0
    assert found["debug/timing/train_temporal_sync_ms"] == 2000.0
    assert found["debug/timing/train_action_head_ms"] == 1000.0
    assert found["debug/timing/train_forward_total_ms"] == 8000.0
    assert found["debug/timing/vlm_forward_ratio"] == 1 / 8
    assert found["debug/timing/temporal_sync_ratio"] == 2 / 8
    assert found["debug/sagr/mse_dyn"] == 0.25
    assert found["debug/causal_feedback/token_norm_mean"] == 7.5
    assert found["debug/causal_feedback/delta_z_norm_mean"] == 3.0
    ratio = found["debug/grad_norm/geo_group_l2"] / found["debug/grad_norm/cfm_group_l2"]
    assert found["debug/grad_norm/geo_over_cfm_ratio_proxy"] == pytest.approx(ratio)
    assert found["loss/total"] == 1.5


def test_what_was_not_measured_is_absent(clock: list[float]):
    observer = Observer()
    module, groups = pair()
    timer = observer.begin(module, groups)
    for mark in ("sync_start", "sync_end", "end"):
        clock[0] += 1.0
        timer.mark(mark)
    found = observer.record.read()
    timings = {key.rpartition("/")[2] for key in found if key.startswith("debug/timing/")}
    sync = {"train_temporal_sync_ms", "temporal_sync_ratio", "train_vlm_tk_ms"}
    assert timings == {*sync, "train_forward_total_ms"}, "neither the vision-language model nor the head was run"
    assert "debug/grad_norm/geo_over_cfm_ratio_proxy" not in found, "no gradient of the head"
    assert found["debug/causal_feedback/applied"] == 0.0


def test_what_a_call_reports(clock: list[float]):
    timer = Timer()
    for mark, at in {
        "start": 0.0,
        "geometry_start": 0.02,
        "geometry_end": 0.03,
        "perceived": 0.04,
        "corrected": 0.06,
        "end": 0.1,
    }.items():
        clock[0] = at
        timer.mark(mark)
    trace = Trace(energy=[torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])], residual_norm=[], cosine=[])
    dz = torch.zeros(2, 3, 2)
    dz[0, 1], dz[1, 2, 0] = torch.tensor([3.0, 4.0]), 1.0
    found = inference_metrics(timer, trace, 4, 20.0, Residual(dz, torch.zeros_like(dz), torch.zeros_like(dz)))
    assert found == {
        "timing/perception_ms": pytest.approx(40.0),
        "timing/geometric_latency_ms": pytest.approx(10.0),
        "timing/drift_response_lag_ms": pytest.approx(20.0),
        "timing/drift_freshness_ms_est": pytest.approx(60.0),
        "timing/effective_control_hz": pytest.approx(40.0),
        "timing/command_overlap_ratio_est": pytest.approx(2.0),
        "timing/phase_shift_steps_est": pytest.approx(2.0),
        "geo/delta_z_norm_trace": [3.0],
        "geo/energy_trace": [2.0, 0.5],
        "geo/drift_action_cos_trace": [],
    }
    first = inference_metrics(timer, Trace(), 4, 20.0)
    assert first["timing/effective_control_hz"] == pytest.approx(40.0), "actions come without a plan too"
    assert first["geo/delta_z_norm_trace"] == []


def trainer(folder: Path, completed: int, every: int = 2, sync: bool = True, main: bool = True) -> SimpleNamespace:
    config = SimpleNamespace(output_dir=str(folder), trainer=SimpleNamespace(logging_frequency=every))
    accelerator = SimpleNamespace(sync_gradients=sync, is_main_process=main)
    return SimpleNamespace(config=config, accelerator=accelerator, completed_steps=completed)


def test_other_frameworks_add_nothing(tmp_path: Path):
    assert step_metrics(trainer(tmp_path, 1), {"action_loss": torch.zeros(())}) == {}
    assert list(tmp_path.iterdir()) == []


def test_only_logging_steps_are_recorded_and_written(tmp_path: Path, clock: list[float]):
    observer, output = Observer(), {}
    output["sagr"] = observer
    module, groups = pair()
    seen = []
    for completed in range(5):
        timer = observer.begin(module, groups)
        for mark in ("vlm_start", "vlm_end", "end"):
            clock[0] += 1.0
            timer.mark(mark)
        metrics = step_metrics(trainer(tmp_path, completed), output)
        seen.append((completed + 1, bool(metrics), timer.enabled))
    assert seen == [(1, False, True), (2, True, True), (3, False, False), (4, True, True), (5, False, False)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["debug/timing/train_vlm_t_ms"] == 1000.0
    assert all(not parameter._backward_hooks for parameter in module.parameters())


def test_rank_0_writes_and_accumulation_waits(tmp_path: Path, clock: list[float]):
    observer = Observer("imitation")
    recorded(clock, observer)
    assert step_metrics(trainer(tmp_path, 1, sync=False), {"sagr": observer}) == {}
    assert step_metrics(trainer(tmp_path, 1, main=False), {"sagr": observer}) != {}
    assert list(tmp_path.iterdir()) == []
    observer.active = True
    recorded(clock, observer)
    assert step_metrics(trainer(tmp_path, 1), {"sagr": observer}) != {}
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["stage"]) == (2, "imitation")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA events need a GPU")
def test_events_on_a_gpu():
    timer = Timer("cuda")
    x = torch.randn(4096, 4096, device="cuda")
    timer.mark("start")
    for _ in range(20):
        x = x @ x / 64
    timer.mark("end")
    assert timer.ms("start", "end") > 0.5
