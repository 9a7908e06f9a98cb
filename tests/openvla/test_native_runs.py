"""The upstream's own scripts on the stand-in, patched with the real packs: off, on, saved, merged, resumed, spread."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DOWNSTREAM, GENERAL, Materials
from safetensors.torch import load_file

from tests.standins.clipping import reproducible_clipping
from tests.standins.openvla_project import OpenVLAProject, Ran

FINETUNE, TRAIN = "vla-scripts/finetune.py", "vla-scripts/train.py"
Finetune = Callable[..., Ran]


@pytest.fixture(scope="module")
def finetune(project: OpenVLAProject, materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Finetune:
    """Runs finetune.py in a folder of its own; ``options`` replace or add to a short run's."""

    def run(
        tree: Path | None = None,
        ranks: int = 1,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        **options: object,
    ) -> Ran:
        values: dict[str, object] = {
            "vla_path": materials.checkpoint,
            "data_root_dir": materials.data,
            "dataset_name": DOWNSTREAM,
            "batch_size": 4,
            "max_steps": 10,
            "save_steps": 10,
            "lora_rank": 4,
            **options,
        }
        arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        where = cwd or tmp_path_factory.mktemp("run") / "run"
        return project.run(FINETUNE, *arguments, cwd=where, tree=tree, ranks=ranks, env=env).check()

    return run


@pytest.fixture(scope="module")
def subspaces(project: OpenVLAProject, materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probe set and ICSM artifact of the checkpoint, made by the grafted checkout's own commands."""
    home = tmp_path_factory.mktemp("artifacts")
    module = project.patched / "research"
    probe = [
        *("--out", home / "probe", "--data_root_dir", materials.data, "--dataset_name", GENERAL),
        *("--image_size", 32, "--n", 24, "--seed", 3),
    ]
    run_module(project, module / "probe" / "probe_dataset.py", probe, home / "a")
    run_module(project, module / "icms" / "offline_icms.py", icms(materials.checkpoint, home, "icms"), home / "b")
    return home


def icms(teacher: Path, home: Path, name: str) -> list[object]:
    """Options of offline_icms for a teacher, with the probe set in ``home``."""
    return [
        *("--vla_path", teacher, "--probe", home / "probe", "--out", home / name),
        *("--layers", "1,3", "--groups", "1:0-1;3:2-3", "--r", 8, "--draws", 2, "--dtype", "float32"),
    ]


def run_module(project: OpenVLAProject, file: Path, arguments: list[object], cwd: Path) -> None:
    """``python -m package.module ARGUMENTS`` from the checkout's root."""
    parts = file.relative_to(project.patched).with_suffix("").parts
    project.run("-m", ".".join(parts), *map(str, arguments), cwd=cwd).check()


@pytest.fixture(scope="module")
def switched_on(subspaces: Path) -> dict[str, object]:
    return {
        "surgery.enabled": True,
        "surgery.subspace_dir": subspaces / "icms",
        "surgery.probe_dir": subspaces / "probe",
        "surgery.log_every": 5,
        "surgery.thermostat.every": 4,
        "surgery.thermostat.samples": 8,
        "surgery.thermostat.cold_start": 2,
    }


@pytest.fixture(scope="module")
def plain(finetune: Finetune, project: OpenVLAProject) -> Ran:
    return finetune(tree=project.plain)


@pytest.fixture(scope="module")
def on(finetune: Finetune, switched_on: dict[str, object]) -> Ran:
    return finetune(**switched_on)


def test_patched_but_off_is_the_upstream_bit_for_bit(finetune: Finetune, plain: Ran) -> None:
    off = finetune()
    assert len(plain.losses()) == 2
    assert off.logged() == plain.logged()
    for pattern in ("adapter-tmp/*/adapter_model.safetensors", "runs/*/model.safetensors"):
        assert off.one(pattern).read_bytes() == plain.one(pattern).read_bytes()
        assert off.one(pattern).parent.name == plain.one(pattern).parent.name
    assert not [*off.cwd.glob("**/metrics.jsonl"), *off.cwd.glob("**/gradient_surgery.pt")]


def test_a_progress_bar_that_is_switched_off_changes_no_step(
    finetune: Finetune, switched_on: dict[str, object], on: Ran
) -> None:
    quiet = finetune(env={"TQDM_DISABLE": "1"}, **switched_on)
    assert quiet.losses() == on.losses()
    steps = [json.loads(line)["step"] for line in quiet.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in on.one("runs/*/metrics.jsonl").read_text().splitlines()]


def test_on_changes_weights_logs_and_has_a_folder_of_its_own(plain: Ran, on: Ran) -> None:
    adapter = "adapter-tmp/*/adapter_model.safetensors"
    ours, theirs = load_file(on.one(adapter)), load_file(plain.one(adapter))
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert on.one(adapter).parent.name.startswith(plain.one(adapter).parent.name.removesuffix("--image_aug"))
    assert on.losses()[0] == plain.losses()[0], "nothing may change before the first step"
    last = on.logged()[-1]
    assert 0.0 <= last["surgery/gamma"] <= last["surgery/beta"] <= 1.0
    assert last["surgery/drift"] > 0.0
    lines = [json.loads(line) for line in on.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "norms" in line] == [0, 5, 10]
    digest = hashlib.sha256(json.dumps(lines[0]["settings"], sort_keys=True).encode()).hexdigest()[:8]
    assert on.one(adapter).parent.name.endswith(f"+surgery-{digest}")
    first = next(line for line in lines if "norms" in line)["norms"]
    assert set(first) == {"0", "1", "2", "3"}
    assert [line["step"] for line in lines if "mean_drift" in line] == [0, 4, 8]
    assert next(line for line in lines if "mean_drift" in line)["mean_drift"] == 0.0


def base_weights(materials: Materials) -> dict[str, torch.Tensor]:
    return load_file(materials.checkpoint / "model.safetensors")


def test_a_merged_checkpoint_loads_and_is_base_plus_adapter(on: Ran, materials: Materials) -> None:
    merged = load_file(on.one("runs/*/model.safetensors"))
    base = base_weights(materials)
    folder = on.one("adapter-tmp/*/adapter_model.safetensors")
    adapter = load_file(folder)
    scale = json.loads((folder.parent / "adapter_config.json").read_text())["lora_alpha"] / 4
    tested = 0
    for name in base:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in adapter:
            torch.testing.assert_close(merged[name], base[name], rtol=0, atol=0)
            continue
        down, up = (adapter[f"{stem}.lora_{side}.weight"].double() for side in "AB")
        expected = base[name].double() + scale * (up @ down)
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-4, atol=1e-6)
        tested += int(not torch.equal(merged[name], base[name]))
    assert tested > 10


def test_a_run_resumes_where_it_stopped(finetune: Finetune, on: Ran, switched_on: dict[str, object]) -> None:
    saved = on.one("adapter-tmp/*/gradient_surgery.pt")
    state = torch.load(saved, weights_only=True)
    resumed = finetune(cwd=on.cwd.with_name("resumed"), **switched_on, **{"surgery.resume": saved.parent})
    lines = [json.loads(line) for line in resumed.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] >= state["steps"]
    after = torch.load(resumed.one("adapter-tmp/*/gradient_surgery.pt"), weights_only=True)
    assert after["steps"] == state["steps"] + 11
    measured = [line["mean_drift"] for line in lines if "mean_drift" in line]
    assert min(measured) > 0.0, "the adapter's weights are not the teacher's"


def test_two_ranks_measure_log_and_save_once(
    finetune: Finetune, switched_on: dict[str, object], materials: Materials
) -> None:
    options = {"max_steps": 5, "save_steps": 5, "surgery.thermostat.every": 2}
    both = finetune(ranks=2, **{**switched_on, **options})
    lines = [json.loads(line) for line in both.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mean_drift" in line] == [0, 2, 4]
    assert [line["step"] for line in both.logged()] == [0]
    assert load_file(both.one("runs/*/model.safetensors")).keys() == base_weights(materials).keys()


def test_two_ranks_off_are_the_upstream_bit_for_bit(finetune: Finetune, project: OpenVLAProject) -> None:
    off, plain = (finetune(ranks=2, tree=tree, max_steps=3, save_steps=3) for tree in (None, project.plain))
    assert off.logged() == plain.logged()
    pattern = "adapter-tmp/*/adapter_model.safetensors"
    assert off.one(pattern).read_bytes() == plain.one(pattern).read_bytes()


def test_half_precision_and_accumulation_run_with_the_method(
    finetune: Finetune, switched_on: dict[str, object]
) -> None:
    """bfloat16 weights under autocast as upstream has them on a GPU, two micro-batches a step."""
    options = {**switched_on, "surgery.log_every": 2, "grad_accumulation_steps": 2, "max_steps": 5, "save_steps": 5}
    ran = finetune(env={"STANDIN_DTYPE": "bfloat16"}, **options)
    lines = [json.loads(line) for line in ran.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "norms" in line] == [0, 2, 4]
    assert load_file(ran.one("runs/*/model.safetensors"))["language_model.lm_head.weight"].dtype == torch.bfloat16


def test_the_evaluation_counts_errors_apart_from_failures(
    project: OpenVLAProject, materials: Materials, plain: Ran, tmp_path: Path
) -> None:
    """A checkpoint as finetune.py left it, through upstream's evaluation: one task, two episodes."""
    script = "experiments/robot/libero/run_libero_eval.py"
    asked = ["--task_suite_name", "libero_spatial", "--num_tasks", "1", "--num_trials_per_task", "2"]
    checkpoint = plain.one("runs/*/model.safetensors").parent
    ran = project.run(script, "--pretrained_checkpoint", str(checkpoint), *asked, cwd=tmp_path).check()
    result = json.loads(ran.one("experiments/logs/*.results.json").read_text())
    assert (result["episodes"], result["errors"], len(result["tasks"])) == (2, 0, 1)

    # Two tasks in one go, and the second alone after an interruption: the same account.
    asked[3] = "2"
    whole = project.run(script, "--pretrained_checkpoint", str(checkpoint), *asked, cwd=tmp_path / "whole").check()
    expected = json.loads(whole.one("experiments/logs/*.results.json").read_text())
    assert len(expected["tasks"]) == 2
    cut = tmp_path / "cut.results.json"
    cut.write_text(json.dumps({**expected, "complete": False, "tasks": expected["tasks"][:1]}))
    more = ["--resume_results", str(cut)]
    rest = project.run(script, "--pretrained_checkpoint", str(checkpoint), *asked, *more, cwd=tmp_path / "rest").check()
    found = json.loads(rest.one("experiments/logs/*.results.json").read_text())
    assert found | {"log": ""} == expected | {"log": ""}
    assert (tmp_path / "rest").rglob("*.txt").__next__().read_text().count("success:") == 2
    asked[3] = "1"

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    statistics = json.loads((broken / "dataset_statistics.json").read_text())
    statistics[DOWNSTREAM]["action"]["q99"].pop()
    (broken / "dataset_statistics.json").write_text(json.dumps(statistics))
    failed = project.run(script, "--pretrained_checkpoint", str(broken), *asked, cwd=tmp_path / "second")
    assert failed.codes != (0,)
    assert "EveryEpisodeErrored" in failed.outputs[0]
    result = json.loads(failed.one("experiments/logs/*.results.json").read_text())
    assert (result["episodes"], result["errors"]) == (2, 2)


@pytest.fixture(scope="module")
def train(project: OpenVLAProject, materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Finetune:
    """Runs train.py on two processes, with FSDP and activation checkpointing."""

    def run(tree: Path | None = None, cwd: Path | None = None, fails: bool = False, **options: object) -> Ran:
        values: dict[str, object] = {
            "vla.type": "prism-dinosiglip-224px+mx-bridge",
            "vla.base_vlm": materials.checkpoint,
            "vla.max_steps": 4,
            "vla.global_batch_size": 4,
            "vla.per_device_batch_size": 2,
            "vla.enable_mixed_precision_training": False,
            "data_root_dir": materials.data,
            "run_id": "run",
            **options,
        }
        arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
        where = cwd or tmp_path_factory.mktemp("train") / "run"
        ran = project.run(TRAIN, *arguments, cwd=where, tree=tree, ranks=2)
        return ran if fails else ran.check()

    return run


def test_fsdp_off_is_the_upstream_bit_for_bit(train: Finetune, project: OpenVLAProject) -> None:
    options = reproducible_clipping()
    plain, off = train(tree=project.plain, **options), train(**options)
    timeless = [[{k: v for k, v in each.items() if "Time" not in k} for each in ran.logged()] for ran in (plain, off)]
    assert len(timeless[0]) == 4
    assert timeless[0] == timeless[1]
    ours, theirs = (torch.load(ran.one("runs/run/checkpoints/*.pt"), weights_only=True) for ran in (off, plain))
    for part, state in theirs["model"].items():
        assert all(torch.equal(ours["model"][part][name], tensor) for name, tensor in state.items())


def test_fsdp_on_saves_and_resumes(train: Finetune, switched_on: dict[str, object]) -> None:
    options = {**switched_on, "surgery.thermostat.every": 2, "surgery.log_every": 2}
    on = train(**options)
    assert on.logged()[-1]["surgery/drift"] > 0.0
    checkpoint = on.one("runs/*/checkpoints/step-*-epoch-*.pt")
    on.one("runs/*/checkpoints/*gradient_surgery.pt")
    resume = {"pretrained_checkpoint": checkpoint, "resume_step": 4, "resume_epoch": 0, "vla.max_steps": 6}
    on_again = train(cwd=on.cwd, **options, **resume)
    on_again.one("runs/*/checkpoints/step-000006-epoch-*.pt")
    lines = [json.loads(line) for line in on_again.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mean_drift" in line] == [0, 2, 4]


def test_a_run_of_train_py_is_a_teacher_and_training_goes_on_from_it(
    train: Finetune,
    project: OpenVLAProject,
    subspaces: Path,
    switched_on: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its checkpoint gives the subspaces by the command; those of what it was trained from are refused."""
    first = train(**{"vla.learning_rate": 0.05})
    checkpoint = first.one("runs/run/checkpoints/step-*-epoch-*.pt")
    home = tmp_path_factory.mktemp("native")
    shutil.copytree(subspaces / "probe", home / "probe")
    file = project.patched / "research" / "icms" / "offline_icms.py"
    run_module(project, file, icms(checkpoint, home, "native"), home)
    meta = json.loads((home / "native" / "meta.json").read_text())
    assert (meta["model"]["family"], meta["model"]["path"]) == ("prismatic", str(checkpoint))

    begin = {**switched_on, "pretrained_checkpoint": checkpoint, "is_resume": False}
    on = train(**{**begin, "surgery.subspace_dir": home / "native"})
    lines = [json.loads(line) for line in on.one("runs/*/metrics.jsonl").read_text().splitlines()]
    measured = [line["mean_drift"] for line in lines if "mean_drift" in line]
    assert measured[0] < 1e-5
    refused = train(fails=True, **begin)
    assert refused.codes != (0, 0)
    assert f"and {checkpoint}, which training starts from, is another model" in refused.outputs[0]
    assert not [*refused.cwd.glob("runs/*/metrics.jsonl")]
    allowed = train(**begin, **{"surgery.allow_other_teacher": True})
    lines = [json.loads(line) for line in allowed.one("runs/*/metrics.jsonl").read_text().splitlines()]
    assert next(line["mean_drift"] for line in lines if "mean_drift" in line) > measured[0]


@pytest.fixture(scope="module")
def guarded_options(switched_on: dict[str, object]) -> dict[str, object]:
    return {**switched_on, "surgery.hsw": False, "learning_rate": 5e-3, "surgery.input_guard": 0.99}


@pytest.fixture(scope="module")
def guarded(finetune: Finetune, guarded_options: dict[str, object]) -> Ran:
    return finetune(**guarded_options)


def lines_of(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.one("runs/*/metrics.jsonl").read_text().splitlines()]


def test_the_input_guard_holds_the_drift(finetune: Finetune, guarded_options: dict[str, object], guarded: Ran) -> None:
    free = finetune(**{**guarded_options, "surgery.input_guard": 0.0})
    without, held = ([line["mean_drift"] for line in lines_of(ran) if "mean_drift" in line] for ran in (free, guarded))
    assert without[0] == held[0] == 0.0, "nothing has changed before the first step"
    assert 0.0 < held[-1] < 0.5 * without[-1]


def test_the_first_line_says_what_the_guard_holds_of_other_samples(guarded: Ran) -> None:
    """24 probe samples are two batches: the first is held against the second's directions."""
    first, *later = lines_of(guarded)
    report, adapter = first["input_guard"], load_file(guarded.one("adapter-tmp/*/adapter_model.safetensors"))
    assert not any("input_guard" in line for line in later)
    factors = {name.removesuffix(".lora_A.weight"): a for name, a in adapter.items() if "lora_A" in name}
    assert report["by_layer"].keys() == factors.keys()
    for name, (count, size, energy, row) in report["by_layer"].items():
        assert 0 < count < size == factors[name].shape[1]
        assert 0.5 < energy < 1.0
        assert 0.5 < row < 1.0


def test_a_resumed_adapter_stays_orthogonal_to_the_guarded_directions(
    finetune: Finetune,
    guarded_options: dict[str, object],
    guarded: Ran,
    on: Ran,
    materials: Materials,
    subspaces: Path,
) -> None:
    adapter = "adapter-tmp/*/adapter_model.safetensors"
    saved = guarded.one(adapter)
    resumed = finetune(**guarded_options, **{"surgery.resume": saved.parent})
    bases = guarded_directions(materials.checkpoint, subspaces / "probe", 0.99)

    def inside(file: Path) -> list[float]:
        """Of each layer's A the share of its length in U, in float64."""
        found = load_file(file)
        pairs = [(found[f"{name}.lora_A.weight"].double(), basis.double()) for name, basis in bases.items()]
        return [float((factor @ basis).norm() / factor.norm()) for factor, basis in pairs]

    before, after = load_file(saved), load_file(resumed.one(adapter))
    assert all(not torch.equal(before[f"{name}.lora_A.weight"], after[f"{name}.lora_A.weight"]) for name in bases)
    assert max(inside(resumed.one(adapter))) < 1e-4
    assert min(inside(on.one(adapter))) > 0.3


def guarded_directions(checkpoint: Path, probe: Path, share: float) -> dict[str, torch.Tensor]:
    """U of each layer with LoRA, found again from the checkpoint; what it is made of is tested in test_input_guard."""
    from peft import LoraConfig, get_peft_model
    from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
    from prismatic.extern.hf.registration import AutoProcessor, register
    from research.anatomy import anatomy
    from research.assembly import _batches
    from research.hooks.input_guard import InputGuard, lora_layers
    from research.probe.hidden_and_mask import prompt_builder_for, template_of
    from research.probe.probe_set import ProbeSet
    from research.ranks import Ranks

    model = OpenVLAForActionPrediction.from_pretrained(checkpoint)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights="gaussian"))
    register(OpenVLAConfig, OpenVLAForActionPrediction, PrismaticImageProcessor, PrismaticProcessor)
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    template, ranks, parts = template_of(prompt_builder_for(checkpoint)), Ranks.of(model), anatomy(model)

    def batches() -> Any:
        return _batches(ProbeSet.load(probe), processor, template, parts, 16, ranks.device)

    guard = InputGuard.measured(model, batches, ranks, share, 7, 256, 7)
    return dict(zip(lora_layers(model), (basis for _, basis in guard._held), strict=True))


def test_the_input_guard_is_refused_where_there_is_no_lora(
    project: OpenVLAProject, materials: Materials, switched_on: dict[str, object], tmp_path: Path
) -> None:
    options = {**switched_on, "surgery.input_guard": 0.9, "use_lora": False, "max_steps": 1}
    options |= {"vla_path": materials.checkpoint, "data_root_dir": materials.data, "dataset_name": DOWNSTREAM}
    ran = project.run(FINETUNE, *(str(w) for k, v in options.items() for w in (f"--{k}", v)), cwd=tmp_path)
    assert ran.codes != (0,)
    assert "--use_lora True" in ran.outputs[0]
