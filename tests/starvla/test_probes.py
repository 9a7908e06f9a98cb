"""Probes at the evaluations of upstream's trainer, on the grafted stand-in: off and on, training is upstream's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_stages import SMALL, state, timeless
from toy import Toy

from tests.analysed import contents
from tests.standins.starvla_project import Ran, StarVLAProject

PROBES = (
    "{probes: [{name: dit, source_modules: [action_model.model.transformer_blocks.*], "
    "target_modules: [action_model.action_decoder]}, "
    "{name: vlm, source_modules: ['qwen_vl_interface.model.**.layers.*'], "
    "target_modules: [qwen_vl_interface.model.**.norm]}], validation_subset_size: 5, tokens_per_sample: 3}"
)


@pytest.fixture(scope="module")
def train(project: StarVLAProject, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    def run(*options: str, **how: Any) -> Ran:
        cwd = tmp_path_factory.mktemp("probes") / "run"
        steps = ("--trainer.max_train_steps=6", "--trainer.eval_interval=3")
        return project.train(toy.config, *steps, *options, cwd=cwd, **how)

    return run


@pytest.fixture(scope="module")
def off(train: Callable[..., Ran]) -> Ran:
    return train().check()


@pytest.fixture(scope="module")
def on(train: Callable[..., Ran]) -> Ran:
    return train(f"--trainer.probes={PROBES}").check()


def files(ran: Ran, name: str) -> list[dict[str, Any]]:
    return contents(ran.one("playground/toy/probes") / name, 3)


def test_training_is_the_same_with_probes(off: Ran, on: Ran) -> None:
    assert len(timeless(off)) == 6
    assert timeless(on) == timeless(off)
    ours, theirs = state(on, "toy"), state(off, "toy")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(off.cwd.glob("**/probes"))


def test_each_evaluation_leaves_a_file(on: Ran) -> None:
    for name, modules in (("dit", "action_model.model.transformer_blocks."), ("vlm", "qwen_vl_interface.model.")):
        read = files(on, name)
        for content in read:
            assert content["metadata"]["dataset_name"] == "toy"
            assert content["metadata"]["expert_activation_counts"] == {}
            assert len(content["source_activations"]) >= 2
            assert all(path.startswith(modules) for path in content["source_activations"])
            assert sorted(set(content["metadata"]["rows"]["sample"].tolist())) == list(range(5))
            assert len(content["labels"]) == 15
        rows = [content["metadata"]["rows"] for content in read]
        assert all(torch.equal(each["token"], rows[0]["token"]) for each in rows)
        (target,) = read[0]["target_activations"]
        before, middle, last = (content["target_activations"][target] for content in read)
        assert not torch.equal(before, middle)
        assert not torch.equal(middle, last)


def test_the_methods_own_framework_is_probed_too(train: Callable[..., Ran]) -> None:
    options = (*SMALL, "--framework.name=MapAnythingLlava3DPI", "--datasets.vla_data.data_mix=toy_next")
    ran = train(f"--trainer.probes={PROBES}", *options).check()
    assert all(
        torch.isfinite(values).all() for read in files(ran, "dit") for values in read["source_activations"].values()
    )


def test_two_ranks_share_the_samples(train: Callable[..., Ran]) -> None:
    read = files(train(f"--trainer.probes={PROBES}", ranks=2).check(), "dit")
    assert all(sorted(set(each["metadata"]["rows"]["sample"].tolist())) == list(range(5)) for each in read)


def test_a_module_that_is_not_there_is_refused_before_training(train: Callable[..., Ran]) -> None:
    probes = PROBES.replace("transformer_blocks", "transformer_blcks")
    ran = train(f"--trainer.probes={probes}")
    assert ran.codes == (1,)
    assert "probe 'dit', source_modules: no module of the model is named" in ran.outputs[0]
    assert "action_model.model.transformer_blocks.*" in ran.outputs[0]
    assert not list(ran.cwd.glob("**/pytorch_model.pt"))


def test_off_nothing_is_asked_of_the_trainer(project: StarVLAProject, tmp_path: Path) -> None:
    """The whole of the seam without the switch: any other attribute would raise."""
    script = tmp_path / "off.py"
    script.write_text(
        "from types import SimpleNamespace\n"
        "from starVLA.infodyn_trainer import attach_probes\n"
        "trainer = SimpleNamespace(config=SimpleNamespace(trainer={}))\n"
        "attach_probes(trainer)\n"
        "assert type(trainer) is SimpleNamespace and vars(trainer).keys() == {'config'}\n"
    )
    project.run(str(script), cwd=tmp_path / "run", env={"PYTHONPATH": str(project.patched)}).check()
