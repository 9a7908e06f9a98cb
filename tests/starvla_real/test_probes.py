"""Probes in upstream's own trainer: the run is the unpatched one, bit for bit, and what they leave can be analysed."""

from __future__ import annotations

import json
from pathlib import Path

import native
import pytest
import torch

from tests.analysed import atoms, check_pairs, contents

SPEC = {
    "name": "dit",
    "source_modules": ["action_model.model.transformer_blocks.*"],
    "target_modules": ["action_model.action_decoder"],
}


@pytest.fixture(scope="module")
def probed(grafted: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    folder = tmp_path_factory.mktemp("probed")
    file = folder / "probes.json"
    file.write_text(json.dumps({"probes": [SPEC], "validation_subset_size": 64, "tokens_per_sample": 8}))
    return native.train(grafted, folder, materials, f"--trainer.probes={file}")


def test_losses_and_weights_are_those_of_the_unpatched_run(probed: native.Recorded, baseline: native.Recorded) -> None:
    assert len(set(baseline.losses)) == native.STEPS
    assert probed.losses == baseline.losses
    assert probed.weights == baseline.weights
    native.same_bytes(probed.output / "final_model", baseline.output / "final_model")
    assert not (baseline.output / "probes").exists()


def test_each_evaluation_has_a_file(probed: native.Recorded) -> None:
    """The configuration evaluates every two of four steps, and the model before training counts too."""
    read = contents(probed.output / "probes" / "dit", 3)
    for content in read:
        assert len(content["metadata"]["source_modules"]) == len(content["source_activations"]) >= 2
        assert {len(values) for values in content["source_activations"].values()} == {64 * 8}
    decoders = [content["target_activations"]["action_model.action_decoder"] for content in read]
    assert not torch.equal(decoders[0], decoders[2])


def test_pairs_of_blocks_are_analysed(probed: native.Recorded) -> None:
    check_pairs(atoms(probed.output, "dit", "--top-n-experts", 4), [0, 1, 2], 4)
