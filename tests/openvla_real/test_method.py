"""The method on, in upstream's own training scripts: numbers, checkpoint, resume, merged model, two ranks, FSDP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import native
import pytest

PREDICT = """
import sys
from pathlib import Path
import numpy, torch
from PIL import Image
from types import SimpleNamespace
from experiments.robot.openvla_utils import get_processor, get_vla, get_vla_action
cfg = SimpleNamespace(pretrained_checkpoint=sys.argv[1], load_in_8bit=False, load_in_4bit=False)
vla = get_vla(cfg)
image = numpy.arange(64 * 64 * 3, dtype=numpy.uint8).reshape(64, 64, 3)
action = get_vla_action(vla, get_processor(cfg), sys.argv[1], {"full_image": image}, "Open the upper drawer",
                        "libero_spatial_no_noops", center_crop=True)
print("ACTION", [float(value) for value in action])
"""


def lines_of(run: native.Recorded) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.one("runs/*/metrics.jsonl").read_text().splitlines()]


def test_the_method_changes_what_is_learnt_and_nothing_before_the_first_step(
    method: native.Recorded, baseline: native.Recorded
) -> None:
    assert method.losses[0][0] == baseline.losses[0][0]
    assert method.weights[0][0] != baseline.weights[0][0]
    assert len(method.losses[0]) == native.STEPS + 1


def test_metrics_say_what_was_done_to_the_gradient(method: native.Recorded) -> None:
    lines = lines_of(method)
    logged = [line for line in lines if "norms" in line]
    assert [line["step"] for line in logged] == [0, 2, 4, 6, 8, 10]
    for line in logged:
        assert set(line["norms"]) == {"0", "1", "2"}
        for norms in line["norms"].values():
            whole = norms["gf"] ** 2 + norms["gp"] ** 2 + norms["gn"] ** 2
            assert abs(whole - norms["g"] ** 2) < 1e-3 * whole
            damped = (line["gamma"] * norms["gf"]) ** 2 + (line["beta"] * norms["gp"]) ** 2 + norms["gn"] ** 2
            assert abs(damped - norms["g_after"] ** 2) < 1e-2 * whole
            assert norms["g_after"] < norms["g"]


def test_the_thermostat_starts_cold_finds_no_drift_at_first_and_then_steers(method: native.Recorded) -> None:
    measured = [line for line in lines_of(method) if "mean_drift" in line]
    assert [line["step"] for line in measured] == [0, 4, 8]
    assert measured[0]["mean_drift"] == 0.0
    assert measured[1]["mean_drift"] > 0.0
    assert [line["cold_start"] for line in measured] == [True, True, False]
    assert (measured[2]["next_beta"], measured[2]["next_gamma"]) != (0.5, 0.1)


def test_the_merged_checkpoint_predicts_an_action(grafted: Path, method: native.Recorded, tmp_path: Path) -> None:
    run = method.one("runs/*")
    launcher = native.ROOT / "runners" / "openvla_on_cpu.py"
    (tmp_path / "predict.py").write_text(PREDICT)
    said = native.run(grafted, tmp_path, launcher, "predict.py", run)
    action = json.loads(said.rpartition("ACTION ")[2].splitlines()[0])
    statistics = json.loads((run / "dataset_statistics.json").read_text())["libero_spatial_no_noops"]["action"]
    assert len(action) == 7
    for value, low, high in list(zip(action, statistics["q01"], statistics["q99"], strict=True))[:6]:
        assert low - 1e-6 <= value <= high + 1e-6


def test_a_resumed_run_goes_on_counting(
    grafted: Path, materials: Path, method: native.Recorded, on: list[object], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "resumed"
    shutil.copytree(method.folder / "runs", folder / "runs")
    adapter = method.one("adapters/*")
    resumed = native.finetune(grafted, folder, materials, *on, "--surgery.resume", adapter, steps=4)
    before, after = lines_of(method), lines_of(resumed)
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert added[0]["step"] > before[-1]["step"]
    assert added[0]["beta"] == [line["next_beta"] for line in before if "next_beta" in line][-1]
    assert resumed.weights[0][0] not in method.weights[0]


def test_the_input_guard_holds_the_drift(
    grafted: Path, materials: Path, method: native.Recorded, on: list[object], tmp_path: Path
) -> None:
    """The guard alone, at the method's rate and seed, on a probe set of the task that is learnt."""
    from safetensors.torch import load_file

    guard = ["--surgery.hsw", "false", "--surgery.input_guard", 0.99]
    run = native.finetune(grafted, tmp_path, materials, *on, *guard, steps=8)
    first, *later = lines_of(run)
    held, damped = (
        [line["mean_drift"] for line in lines if "mean_drift" in line] for lines in ((first, *later), lines_of(method))
    )
    assert held[0] == damped[0] == 0.0
    assert 0.0 < held[-1] < 0.5 * damped[-1]
    assert run.weights[0][-1] != run.weights[0][0]
    report = first["input_guard"]
    factors = load_file(run.one("adapters/*/adapter_model.safetensors"))
    assert len(report["by_layer"]) == sum("lora_A" in name for name in factors)
    for name, (count, _, energy, row) in report["by_layer"].items():
        if name not in report["never_run"]:
            assert count > 0
            assert 0.0 < energy <= 1.0
            assert 0.0 < row <= 1.0


def test_two_ranks_hold_the_same_weights_and_factors(
    grafted: Path, materials: Path, on: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream lets each rank shuffle all data, so that no run of one rank sees what two do: a step is done again."""
    monkeypatch.setenv("ONE", "5")
    run = native.finetune(grafted, tmp_path, materials, *on, ranks=2, steps=5)
    assert run.losses[0] != run.losses[1]
    assert run.weights[0] == run.weights[1]
    measured = [line for line in lines_of(run) if "mean_drift" in line]
    assert [line["step"] for line in measured] == [0, 4]
    # In bfloat16, as upstream trains.
    (apart,) = (
        line["apart"] for line in map(json.loads, (tmp_path / "record.0").read_text().splitlines()) if "apart" in line
    )
    assert 0.0 < apart < 0.02


BASE_VLM = "prism-dinosiglip-224px+7b"


@pytest.fixture(scope="module")
def native_subspaces(grafted: Path, materials: Path, probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the base VLM that train.py starts from."""
    return native.native_icms(grafted, tmp_path_factory.mktemp("native"), materials, probe, materials / BASE_VLM)


@pytest.fixture(scope="module")
def fsdp(
    grafted: Path,
    materials: Path,
    native_subspaces: Path,
    on: list[object],
    tmp_path_factory: pytest.TempPathFactory,
) -> native.Recorded:
    """train.py on two ranks; so fast that what it comes to is another model."""
    folder = tmp_path_factory.mktemp("fsdp") / "run"
    changed = ["--surgery.subspace_dir", native_subspaces, "--vla.learning_rate", 0.01]
    return native.train(grafted, folder, materials, *on, *changed)


def test_the_method_runs_in_run_vla_training_under_fsdp(fsdp: native.Recorded) -> None:
    lines = lines_of(fsdp)
    assert [line["step"] for line in lines if "norms" in line] == [0, 2]
    for line in lines:
        for norms in line.get("norms", {}).values():
            assert 0 < norms["g_after"] < norms["g"]
    assert next(line["mean_drift"] for line in lines if "mean_drift" in line) < 1e-5
    assert fsdp.one("runs/*/checkpoints/step-000003-gradient_surgery.pt").stat().st_size > 0
    upstream = [json.loads(line) for line in fsdp.one("runs/*/prism*.jsonl").read_text().splitlines()]
    assert all("surgery/beta" in line and "VLA Train/Loss" in line for line in upstream)


def test_a_native_teacher_and_its_hugging_face_twin_have_the_same_states(
    subspaces: Path, native_subspaces: Path
) -> None:
    """In float32 and in bfloat16: as far apart as rounding, and no further."""
    import torch

    meta = json.loads((native_subspaces / "meta.json").read_text())
    assert (meta["model"]["family"], meta["model"]["num_layers"], meta["model"]["hidden_size"]) == ("prismatic", 4, 64)
    for layer in ("1", "2"):
        one, other = (
            torch.load(place / layer / "C_T.pt", weights_only=True) for place in (native_subspaces, subspaces)
        )
        assert one["ids"] == other["ids"]
        gap = (one["pooled"].double() - other["pooled"].double()).square().sum(1).mean().sqrt()
        spread = (one["pooled"] - one["pooled"].mean(0)).double().square().sum(1).mean().sqrt()
        assert 0 < gap < 0.1 * spread


def test_a_twins_subspaces_are_taken(grafted: Path, materials: Path, on: list[object], tmp_path: Path) -> None:
    """Of the bfloat16 checkpoint in Hugging Face's classes; what trains is native, sharded and float32."""
    run = native.train(grafted, tmp_path / "run", materials, *on, steps=1)
    drift = next(line["mean_drift"] for line in lines_of(run) if "mean_drift" in line)
    assert 0 < drift < 0.1


def test_subspaces_of_another_run_are_refused(
    grafted: Path, materials: Path, probe: Path, fsdp: native.Recorded, on: list[object], tmp_path: Path
) -> None:
    other = fsdp.one("runs/*/checkpoints/step-000003-epoch-*.pt")
    subspaces = native.native_icms(grafted, tmp_path / "icsm", materials, probe, other)
    said = re.escape(f"subspaces of {other}, and {BASE_VLM}, which training starts from, is another model")
    with pytest.raises(AssertionError, match=said):
        native.train(grafted, tmp_path / "run", materials, *on, "--surgery.subspace_dir", subspaces)
    assert not [*tmp_path.glob("run/runs/*/metrics.jsonl")]
