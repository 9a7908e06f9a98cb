"""The four stages through upstream's trainer on the grafted stand-in: each runs from the weights of the one before, its
loss falls, what it freezes stays; and switched off it is the upstream.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sagr.stages import STAGES, Stage, changed, main, overrides
from toy import Toy

from tests.standins.starvla_project import Ran, StarVLAProject

STEPS = {"alignment": 30, "dynamics": 90, "imitation": 36, "correction": 36}
SMALL = [
    *("--framework.sagr.geometry.backend=depth", "--framework.sagr.geometry.patch=8", "--framework.sagr.dim=32"),
    *("--framework.sagr.anchor.slots=4", "--framework.sagr.anchor.heads=4", "--framework.sagr.world.heads=4"),
    *("--framework.sagr.world.layers=2", "--framework.sagr.world.hidden=64"),
    *("--datasets.vla_data.data_mix=toy_next", "--datasets.vla_data.past_offset=[1,2,3,4]"),
    *("--trainer.learning_rate.base=3e-3", "--datasets.vla_data.per_device_batch_size=8"),
]


def weights(ran: Ran, run: str) -> Path:
    return ran.one(f"playground/{run}/final_model/pytorch_model.pt")


def state(ran: Ran, run: str) -> dict[str, torch.Tensor]:
    return torch.load(weights(ran, run), weights_only=True)


@pytest.fixture(scope="module")
def stages(project: StarVLAProject, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """A run of each stage, with feedback tokens."""
    runs: dict[str, Ran] = {}
    previous = None
    for stage in STAGES:
        options = [*SMALL, *overrides(stage, previous, feedback=True)]
        options += [f"--run_id={stage.name}", f"--trainer.max_train_steps={STEPS[stage.name]}"]
        cwd = tmp_path_factory.mktemp("stages") / stage.name
        runs[stage.name] = project.train(toy.config, *options, cwd=cwd).check()
        previous = str(weights(runs[stage.name], stage.name))
    return runs


def metrics(stages: dict[str, Ran], name: str) -> list[dict[str, Any]]:
    file = stages[name].one(f"playground/{name}/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", STEPS)
def test_the_loss_of_every_stage_falls(stages: dict[str, Ran], name: str) -> None:
    """Batches and times differ from step to step, so thirds are compared."""
    losses = stages[name].losses("action_dit_loss")
    assert losses == pytest.approx([line["loss/total"] for line in metrics(stages, name)])
    assert len(losses) == STEPS[name]
    third = len(losses) // 3
    assert sum(losses[-third:]) < 0.9 * sum(losses[:third])


@pytest.mark.parametrize("stage", STAGES[1:], ids=lambda stage: stage.name)
def test_a_stage_trains_what_it_does_not_freeze_and_nothing_else(stages: dict[str, Ran], stage: Stage) -> None:
    previous = STAGES[STAGES.index(stage) - 1]
    before, after = (state(stages[each.name], each.name) for each in (previous, stage))
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    every = {key.split(".")[0] for key in after}
    assert moved - {"causal_feedback"} == every - set(stage.freeze) - {"causal_feedback"}
    assert set(stage.freeze) <= every
    assert changed(stage.freeze, before, after) == []


def test_only_the_losses_of_a_stage_are_in_its_metrics(stages: dict[str, Ran]) -> None:
    for stage in STAGES:
        names = {key.removeprefix("loss/") for key in metrics(stages, stage.name)[0] if key.startswith("loss/")}
        assert names == {name.removeprefix("w_") for name, weight in stage.weights.items() if weight} | {"total"}


def test_perturbation_reaches_the_flow_and_not_what_the_predictor_learns_from(
    stages: dict[str, Ran], project: StarVLAProject, toy: Toy, tmp_path: Path
) -> None:
    """Of the same weights and the same batch."""
    seen = []
    for perturbation in (0.0, 1.0):
        previous = str(weights(stages["imitation"], "imitation"))
        options = [*SMALL, *overrides(STAGES[-1], previous, feedback=True), "--trainer.max_train_steps=1"]
        options += [f"--framework.sagr.perturbation={perturbation}", "--run_id=noise"]
        ran = project.train(toy.config, *options, cwd=tmp_path / str(perturbation)).check()
        seen += metrics({"noise": ran}, "noise")
    plain, noisy = seen
    assert noisy["loss/fm"] != plain["loss/fm"]
    for name in ("loss/dyn", "debug/sagr/mse_dyn", "debug/sagr/delta_z_norm_mean"):
        assert noisy[name] == plain[name] > 0


def test_feedback_tokens_begin_with_the_stage_that_trains_them(stages: dict[str, Ran]) -> None:
    with_feedback = [name for name, ran in stages.items() if any("causal_feedback" in key for key in state(ran, name))]
    assert with_feedback == ["imitation", "correction"]
    applied = [metrics(stages, name)[-1]["debug/causal_feedback/applied"] for name in STEPS]
    assert applied == [0.0, 0.0, 1.0, 1.0]


def test_the_last_stage_loads_strictly_and_acts(stages: dict[str, Ran], project: StarVLAProject, toy: Toy) -> None:
    """In a process of its own, since another tree's modules may be loaded here."""
    script = """
import sys
import numpy as np
from omegaconf import OmegaConf
from starVLA.dataloader.lerobot_datasets import get_vla_dataset
from starVLA.model.framework.base_framework import baseframework
model = baseframework.from_pretrained(sys.argv[1])
assert type(model).__name__ == "MapAnythingLlava3DPI", type(model)
assert model.sagr.stage == "correction"
data = OmegaConf.merge(model.config.datasets.vla_data, {"include_state": True})
sample = get_vla_dataset(data)[0]
found = model.eval().predict_action([sample])
again = model.predict_action([sample], plan=found["plan"], executed=4, return_debug_info=True)
assert found["normalized_actions"].shape == again["normalized_actions"].shape == (1, 8, 3)
assert np.isfinite(again["normalized_actions"]).all()
print("acts")
"""
    ran = stages["correction"]
    (ran.cwd / "act.py").write_text(script)
    env = {"PYTHONPATH": str(project.patched)}
    done = project.run(str(ran.cwd / "act.py"), str(weights(ran, "correction")), cwd=ran.cwd, env=env).check()
    assert done.outputs[0].splitlines()[-1] == "acts"


@pytest.fixture(scope="module")
def off(project: StarVLAProject, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    def run(*options: str, tree: Path | None = None) -> Ran:
        cwd = tmp_path_factory.mktemp("off") / "run"
        steps = ("--trainer.max_train_steps=6", "--trainer.eval_interval=3")
        return project.train(toy.config, *steps, *options, cwd=cwd, tree=tree).check()

    return run


@pytest.fixture(scope="module")
def plain(off: Callable[..., Ran], project: StarVLAProject) -> Ran:
    return off(tree=project.plain)


def timeless(ran: Ran) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if not key.startswith("timing/")} for line in ran.logged()]


@pytest.mark.parametrize("options", [(), ("--framework.name=MapAnythingLlava3DPI",)], ids=["QwenPI", "backend none"])
def test_patched_but_off_is_the_upstream_bit_for_bit(
    off: Callable[..., Ran], plain: Ran, project: StarVLAProject, options: tuple[str, ...]
) -> None:
    assert (project.patched / "starVLA" / "sagr").is_dir()
    assert not (project.plain / "starVLA" / "sagr").exists()
    ran = off(*options)
    assert len(timeless(plain)) == 6
    assert all("mse_score" in line for line in timeless(plain)[2::3])
    assert timeless(ran) == timeless(plain)
    ours, theirs = state(ran, "toy"), state(plain, "toy")
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(ran.cwd.glob("**/metrics.jsonl"))


def test_another_seed_is_another_run(off: Callable[..., Ran], plain: Ran) -> None:
    """Otherwise the comparison above would prove nothing."""
    assert timeless(off("--seed=43")) != timeless(plain)


def test_a_stage_without_the_weights_that_it_starts_from_is_refused() -> None:
    with pytest.raises(ValueError, match="stage dynamics starts from the weights of the stage before"):
        overrides(STAGES[1])
    assert not [each for each in overrides(STAGES[0]) if "pretrained_checkpoint" in each]
    assert "--trainer.pretrained_checkpoint=a.pt" in overrides(STAGES[0], "a.pt")


def test_every_weight_is_said() -> None:
    for stage in STAGES:
        said = dict(each.removeprefix("--").split("=") for each in overrides(stage, "a.pt"))
        losses = {key.rpartition(".")[2]: float(value) for key, value in said.items() if ".losses." in key}
        names = ("w_fm", "w_dyn", "w_geo", "w_reg", "w_align", "w_ground")
        assert losses == {name: stage.weights.get(name, 0.0) for name in names}
        assert said["trainer.freeze_modules"].split(",") == list(stage.freeze)


def test_a_stage_of_no_loss_is_no_stage() -> None:
    with pytest.raises(ValueError, match=r"stage x: weights are \{.w_none.: 1\.0\}"):
        Stage("x", "", (), {"w_none": 1.0})
    with pytest.raises(ValueError, match=r"stage x: weights are \{.w_fm.: 0\.0\}"):
        Stage("x", "", (), {"w_fm": 0.0})


def test_what_was_frozen_and_moved_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {"vlm.a": torch.ones(2), "vlm.b": torch.zeros(2), "head.a": torch.ones(2)}
    after = {"vlm.a": torch.ones(2), "vlm.b": torch.tensor([0.0, 1e-8]), "more.a": torch.ones(1)}
    found = changed(["vlm", "anchor"], before, after)
    assert [line.partition(":")[0] for line in found] == ["head.a", "vlm.b", "anchor"]
    assert changed(["vlm"], before, {**before, "more.a": torch.ones(1)}) == []
    for name, weights_of in (("before", before), ("after", after)):
        torch.save(weights_of, tmp_path / name)
    assert main([str(tmp_path / "before"), str(tmp_path / "after"), "vlm"]) == 1
    assert "vlm.b: it was frozen" in capsys.readouterr().out
    assert main([str(tmp_path / "before"), str(tmp_path / "before"), "vlm,head"]) == 0
    assert main([]) == 2


def test_grounding_is_weighed_where_the_data_has_masks() -> None:
    said = [dict(each.removeprefix("--").split("=") for each in overrides(s, "a.pt", grounding=True)) for s in STAGES]
    weights = [float(each["framework.sagr.losses.w_ground"]) for each in said]
    assert weights == [1.0, 0.0, 0.1, 0.1]
