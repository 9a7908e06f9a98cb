"""Patched but off is the upstream, bit for bit, on the real tree; and so is the method's framework without geometry."""

from __future__ import annotations

from pathlib import Path

import native
import pytest


def same(one: native.Recorded, other: native.Recorded) -> None:
    assert one.losses == other.losses
    assert one.weights == other.weights
    native.same_bytes(one.output / "final_model", other.output / "final_model")


def test_qwenpi_gives_the_same_losses_and_weights(
    grafted: Path, materials: Path, baseline: native.Recorded, tmp_path: Path
) -> None:
    off = native.train(grafted, tmp_path, materials)
    assert len(set(baseline.losses)) == native.STEPS
    assert len(set(baseline.weights)) == len(baseline.weights) >= native.STEPS
    same(off, baseline)
    assert not (off.output / "metrics.jsonl").exists()


def test_the_framework_without_geometry_is_qwenpi(
    grafted: Path, materials: Path, baseline: native.Recorded, tmp_path: Path
) -> None:
    none = native.train(grafted, tmp_path, materials, framework=native.FRAMEWORK)
    same(none, baseline)
    assert not (none.output / "metrics.jsonl").exists()


def test_the_record_notices_another_seed(
    pristine: Path, materials: Path, baseline: native.Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SEED", native.SEED + 1)
    other = native.train(pristine, tmp_path, materials)
    assert not set(other.losses) & set(baseline.losses)
    # The vision-language model is the same file, and the first step's learning rate is 0.
    assert not set(other.weights[1:]) & set(baseline.weights)
