"""Probes whenever finetune.py saves, on the grafted stand-in: off and on, training is upstream's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DOWNSTREAM, Materials

from tests.analysed import contents
from tests.standins.openvla_project import OpenVLAProject, Ran

LAYERS = "**.language_model.model.layers.*"
SPEC = {"name": "llm", "source_modules": [LAYERS], "target_modules": ["**.language_model.model.norm"]}
PROBES = {"probes": [SPEC], "validation_subset_size": 4, "tokens_per_sample": 3}
ADAPTER, MERGED = "adapter-tmp/*/adapter_model.safetensors", "runs/*/model.safetensors"


@pytest.fixture(scope="module")
def finetune(
    project: OpenVLAProject, materials: Materials, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Ran]:
    def run(ranks: int = 1, **options: object) -> Ran:
        values = {
            "vla_path": materials.checkpoint,
            "data_root_dir": materials.data,
            "dataset_name": DOWNSTREAM,
            "batch_size": 4,
            "max_steps": 10,
            "save_steps": 5,
            "lora_rank": 4,
            "lora_dropout": 0.1,
            **options,
        }
        arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        cwd = tmp_path_factory.mktemp("probes") / "run"
        return project.run("vla-scripts/finetune.py", *arguments, cwd=cwd, ranks=ranks)

    return run


@pytest.fixture(scope="module")
def off(finetune: Callable[..., Ran]) -> Ran:
    return finetune().check()


@pytest.fixture(scope="module")
def on(finetune: Callable[..., Ran]) -> Ran:
    return finetune(probes=json.dumps(PROBES)).check()


def files(ran: Ran) -> list[dict[str, Any]]:
    return contents(ran.one("runs/*/probes/llm"), 3)


def test_training_is_the_same_with_probes(off: Ran, on: Ran) -> None:
    assert len(off.logged()) == 2
    assert on.logged() == off.logged()
    for pattern in (ADAPTER, MERGED):
        assert on.one(pattern).read_bytes() == off.one(pattern).read_bytes()
        assert on.one(pattern).parent.name == off.one(pattern).parent.name
    assert not list(off.cwd.glob("**/probes"))


def test_each_checkpoint_leaves_a_file(on: Ran) -> None:
    read = files(on)
    for content in read:
        assert content["metadata"]["dataset_name"] == f"{DOWNSTREAM}, held out"
        assert len(content["source_activations"]) == 5
        assert sorted(set(content["metadata"]["rows"]["sample"].tolist())) == list(range(4))
        assert len(content["labels"]) == 12
    (target,) = read[0]["target_activations"]
    before, middle, last = (content["target_activations"][target] for content in read)
    assert not torch.equal(before, middle)
    assert not torch.equal(middle, last)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_last_file_is_of_the_checkpoint_that_is_saved(
    finetune: Callable[..., Ran], tmp_path: Path, micro_batches: int
) -> None:
    """What a run that begins with that checkpoint finds before its first step. And the options may be a file."""
    (tmp_path / "probes.json").write_text(json.dumps(PROBES))
    probes = tmp_path / "probes.json"
    first = finetune(probes=probes, max_steps=5, grad_accumulation_steps=micro_batches).check()
    again = finetune(probes=probes, max_steps=1, vla_path=first.one(MERGED).parent).check()
    before, last = contents(first.one("runs/*/probes/llm"), 2)
    (found,) = contents(again.one("runs/*/probes/llm"), 1)
    for path, values in found["source_activations"].items():
        torch.testing.assert_close(last["source_activations"][path], values, rtol=1e-4, atol=1e-4)
        assert (before["source_activations"][path] - values).abs().max() > 1e-2


def test_two_ranks_probe_what_one_does(finetune: Callable[..., Ran], on: Ran) -> None:
    """The model before training is the same, and so are the frames that were picked."""
    one, two = files(on)[0], files(finetune(probes=json.dumps(PROBES), ranks=2).check())[0]
    for key in ("sample", "token"):
        assert torch.equal(one["metadata"]["rows"][key], two["metadata"]["rows"][key])
    for path, values in one["source_activations"].items():
        torch.testing.assert_close(two["source_activations"][path], values)


def test_a_module_that_is_not_there_is_refused_before_training(finetune: Callable[..., Ran]) -> None:
    ran = finetune(probes=json.dumps(PROBES).replace(LAYERS, "**.language_modl.*"))
    assert ran.codes == (1,)
    assert "probe 'llm', source_modules: no module of the model is named '**.language_modl.*'" in ran.outputs[0]
    assert not list(ran.cwd.glob(ADAPTER))
