"""Patched but off is the upstream, bit for bit, on the real tree."""

from __future__ import annotations

import json
from pathlib import Path

import native
import pytest

from tests.standins.clipping import reproducible_clipping


def test_finetune_off_gives_the_same_losses_weights_and_files(
    grafted: Path, materials: Path, baseline: native.Recorded, tmp_path: Path
) -> None:
    off = native.finetune(grafted, tmp_path, materials)
    assert len(baseline.losses[0]) == native.STEPS + 1
    assert len(set(baseline.weights[0])) == native.STEPS + 1
    assert off.losses == baseline.losses
    assert off.weights == baseline.weights
    native.same_bytes(off.one("adapters/*"), baseline.one("adapters/*"))
    native.same_bytes(off.one("runs/*"), baseline.one("runs/*"))
    assert off.one("runs/*").name == baseline.one("runs/*").name


def test_the_record_notices_another_seed(
    pristine: Path, materials: Path, baseline: native.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SEED", native.SEED + 1)
    other = native.finetune(pristine, tmp_path, materials, steps=1)
    assert other.losses[0] != baseline.losses[0][:2]
    assert other.weights[0] != baseline.weights[0][:2]


def test_factors_of_one_give_the_same_losses_and_weights(
    grafted: Path, materials: Path, baseline: native.Recorded, subspaces: Path, probe: Path, tmp_path: Path
) -> None:
    on = ["--surgery.enabled", "true", "--surgery.subspace_dir", subspaces, "--surgery.probe_dir", probe]
    one = ["--surgery.beta", 1.0, "--surgery.gamma", 1.0, "--surgery.thermostat.enabled", "false"]
    identity = native.finetune(grafted, tmp_path, materials, *on, *one)
    assert identity.losses == baseline.losses
    assert identity.weights == baseline.weights


def test_measuring_only_gives_the_same_losses_and_weights(
    grafted: Path, materials: Path, baseline: native.Recorded, on: list[object], tmp_path: Path
) -> None:
    measured = native.finetune(grafted, tmp_path, materials, *on, "--surgery.hsw", "false")
    assert measured.losses == baseline.losses
    assert measured.weights == baseline.weights
    lines = [json.loads(line) for line in measured.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert any(line.get("mean_drift", 0) > 0 for line in lines)


def test_train_off_gives_the_same_losses_and_weights_under_fsdp(
    grafted: Path, pristine: Path, materials: Path, tmp_path: Path
) -> None:
    options = [part for name, value in reproducible_clipping().items() for part in (f"--{name}", value)]
    upstream = native.train(pristine, tmp_path / "upstream", materials, *options)
    off = native.train(grafted, tmp_path / "off", materials, *options)
    assert [len(set(weights)) for weights in upstream.weights] == [3, 3]
    assert off.losses == upstream.losses
    assert off.weights == upstream.weights
    native.same_bytes(off.one("runs/*/checkpoints"), upstream.one("runs/*/checkpoints"))


def test_finetune_off_on_two_ranks_gives_the_same_losses_and_weights(
    grafted: Path, pristine: Path, materials: Path, tmp_path: Path
) -> None:
    upstream = native.finetune(pristine, tmp_path / "upstream", materials, ranks=2, steps=3)
    off = native.finetune(grafted, tmp_path / "off", materials, ranks=2, steps=3)
    assert upstream.losses[0] != upstream.losses[1]
    assert len(set(upstream.weights[0])) == 4
    assert off.losses == upstream.losses
    assert off.weights == upstream.weights
    weights = "adapters/*/adapter_model.safetensors"
    assert off.one(weights).read_bytes() == upstream.one(weights).read_bytes()
