"""Probes in upstream's own finetune.py: the run is the unpatched one, bit for bit; what they leave can be analysed."""

from __future__ import annotations

import json
from pathlib import Path

import native
import pytest
import torch

from tests.analysed import atoms, check_pairs, contents

SPEC = {
    "name": "llm",
    "source_modules": ["**.language_model.model.layers.*"],
    "target_modules": ["**.language_model.model.norm"],
}
HELD_OUT = 24
"""Frames: two of 40 episodes."""


@pytest.fixture(scope="module")
def data(grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the eight episodes that the other tests have, upstream would hold none out."""
    folder = tmp_path_factory.mktemp("many")
    native.run(grafted, folder, native.HERE / "tiny_episodes.py", folder / "rlds", 40)
    return folder / "rlds"


@pytest.fixture(scope="module")
def plain(pristine: Path, materials: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    return native.finetune(pristine, tmp_path_factory.mktemp("plain"), materials, "--data_root_dir", data)


@pytest.fixture(scope="module")
def probed(grafted: Path, materials: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    folder = tmp_path_factory.mktemp("probed")
    file = folder / "probes.yaml"
    file.write_text(json.dumps({"probes": [SPEC], "validation_subset_size": 64, "tokens_per_sample": 16}))
    return native.finetune(grafted, folder, materials, "--data_root_dir", data, "--probes", file)


def test_losses_and_weights_are_those_of_the_unpatched_run(probed: native.Recorded, plain: native.Recorded) -> None:
    assert len(set(plain.weights[0])) == native.STEPS + 1
    assert probed.losses == plain.losses
    assert probed.weights == plain.weights
    native.same_bytes(probed.one("adapters/*"), plain.one("adapters/*"))
    assert probed.one("runs/*").name == plain.one("runs/*").name


def test_each_checkpoint_has_a_file(probed: native.Recorded) -> None:
    first, last = contents(probed.one("runs/*/probes/llm"), 2)
    assert first["metadata"]["dataset_name"] == "libero_spatial_no_noops, held out"
    assert len(first["source_activations"]) == 4
    assert sorted(set(first["metadata"]["rows"]["sample"].tolist())) == list(range(HELD_OUT))
    (name,) = first["target_activations"]
    assert not torch.equal(first["target_activations"][name], last["target_activations"][name])


def test_two_ranks_probe_what_one_does(grafted: Path, materials: Path, data: Path, probed: native.Recorded) -> None:
    """The model before training is the same, and so are the frames that were picked."""
    file = probed.folder / "probes.yaml"
    options = ["--data_root_dir", data, "--probes", file]
    ranks = native.finetune(grafted, probed.folder / "two", materials, *options, ranks=2, steps=2)
    assert ranks.weights[0] == ranks.weights[1]
    one, two = (contents(run.one("runs/*/probes/llm"), 2)[0] for run in (probed, ranks))
    for key in ("sample", "token"):
        assert torch.equal(one["metadata"]["rows"][key], two["metadata"]["rows"][key])
    for side in ("source_activations", "target_activations"):
        assert one[side].keys() == two[side].keys()
        for path, values in one[side].items():
            torch.testing.assert_close(two[side][path], values, rtol=2e-2, atol=2e-2)


def test_pairs_of_layers_are_analysed(probed: native.Recorded) -> None:
    """One component each: that is what 24 samples are enough for."""
    check_pairs(atoms(probed.one("runs/*"), "llm", "--rank", 1), [0, 1], 4)


def test_a_data_set_that_holds_nothing_out_is_refused(grafted: Path, materials: Path, tmp_path: Path) -> None:
    given = json.dumps({"probes": [SPEC]})
    with pytest.raises(AssertionError, match="libero_spatial_no_noops holds no frames out"):
        native.finetune(grafted, tmp_path, materials, "--probes", given)
    assert not list(tmp_path.glob("adapters/*/*.safetensors"))
