"""attach, before_step, metrics, save, resume: the method as the seams call it, on a LoRA-wrapped model."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import surgery_models as tiny
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from research import assembly
from research.checkpoint import STATE_FILE, ResumeError, read_state, write_state
from research.config import SurgeryConfig, ThermostatConfig
from research.icms.same_teacher import distances
from research.icms.subspace import LayerSubspace, SubspaceError, Subspaces
from research.probe.batch import ProbeBatch
from research.probe.coverage import Candidate
from research.probe.hidden_and_mask import Template, pooled_states
from research.probe.probe_set import write_probe_set
from research.surgery import NoSurgery, Surgery, attach, attach_strategy
from torch.nn.parallel import DistributedDataParallel

OVERLAY = Path(__file__).resolve().parents[2] / "overlays" / "openvla"
N, GROUPS = 7, {1: (1,), 3: (2, 3)}
TEMPLATE = Template("In: ", "?\nOut:", lambda instruction: f"In: {instruction}?\nOut:")


def collated(samples: Any, processor: Any, template: Any, num_patches: int) -> ProbeBatch:
    """Probe samples by their number; what the real one makes of pictures and words is tested where it lives."""
    rows = [tiny.batch(1, 1000 + int(sample.id), torch.float32) for sample in samples]
    size, length = len(rows), 6
    mask = torch.zeros(size, num_patches + length, dtype=torch.bool)
    mask[:, num_patches + 2 : num_patches + 5] = True
    return ProbeBatch(
        torch.cat([row["input_ids"] for row in rows]),
        torch.ones(size, length, dtype=torch.bool),
        torch.cat([row["pixel_values"] for row in rows]),
        mask,
        torch.full((size,), num_patches + length - 1),
        [sample.id for sample in samples],
    )


@pytest.fixture(autouse=True)
def _stand_in_for_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "prompt_builder_for", lambda path: "builder")
    monkeypatch.setattr(assembly, "template_of", lambda builder: TEMPLATE)
    monkeypatch.setattr(assembly, "collate", collated)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SurgeryConfig:
    """A probe set and subspaces of the tiny model on disk, and the switches that name them."""
    folder = tmp_path_factory.mktemp("artifacts")
    pictures = [np.full((2, 2, 3), number, dtype=np.uint8) for number in range(N)]
    probe = write_probe_set(
        folder / "probe",
        [Candidate(picture, f"do {n}", str(n)) for n, picture in enumerate(pictures)],
        7,
        {"kind": "test"},
    )
    batch = collated(probe.samples, None, None, tiny.PATCHES)
    pooled = pooled_states(tiny.TinyVLA(), batch, list(GROUPS))
    layers = {}
    for layer, (uf, up) in tiny.bases(GROUPS).items():
        mean = pooled[layer].mean(0)
        layers[layer] = LayerSubspace(layer, GROUPS[layer], uf, up, mean, pooled[layer], tuple(batch.ids))
    meta = {
        "model": {"path": "tiny", "hidden_size": tiny.HIDDEN, "num_layers": tiny.LAYERS},
        "template": TEMPLATE.text,
        "layers": {},
        "probe": {"hash": probe.hash},
    }
    Subspaces(meta, layers).save(folder / "icms")
    return SurgeryConfig(
        enabled=True,
        subspace_dir=folder / "icms",
        probe_dir=folder / "probe",
        log_every=2,
        thermostat=ThermostatConfig(every=2, samples=4, batch_size=3, cold_start=2, smoothing=0.5),
    )


@pytest.fixture(scope="module")
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model(rank: int = 2, alpha: int = 4, modules: Any = ("mix", "up", "down")) -> Any:
    torch.manual_seed(11)
    return get_peft_model(tiny.TinyVLA(), LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules)))


def config(surgery: SurgeryConfig, vla_path: str = "tiny") -> Any:
    return SimpleNamespace(surgery=surgery, vla_path=vla_path)


def train(vla: Any, surgery: Any, steps: range, offset: int = 0) -> list[float]:
    """Upstream's loop in short; plain SGD, which has no moments to lose."""
    optimizer = torch.optim.SGD([p for p in vla.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for step in steps:
        loss = vla(**tiny.batch(2, step, torch.float32))["loss"]
        loss.backward()
        losses.append(loss.item())
        surgery.before_step(step - offset)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def lora(vla: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vla.named_parameters() if "lora_" in name}


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [{**json.loads(line), "probe_seconds": None} for line in text.splitlines()]


def without_settings(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "settings"} for line in found]


def test_off_is_nothing_at_all(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace as S\n"
        "from research.config import SurgeryConfig\n"
        "from research.surgery import attach, attach_strategy\n"
        "cfg = S(surgery=SurgeryConfig())\n"
        "for off in (attach(None, cfg, None, 'run'), attach_strategy(None, cfg, 'run')):\n"
        "    assert off.metrics() == {} and off.before_step(0) is None and off.save('run') is None\n"
        "assert {name for name in sys.modules if name.startswith('research')} == "
        "{'research', 'research.config', 'research.surgery'}, sorted(sys.modules)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": str(OVERLAY), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []


def test_groups_are_damped_with_their_representatives_subspace(made: SurgeryConfig, tmp_path: Path) -> None:
    basis = tiny.bases(GROUPS)
    steady = replace(made, thermostat=replace(made.thermostat, enabled=False))
    vla = tiny.TinyVLA().double()
    assert isinstance(attach(vla, config(steady), None, tmp_path), Surgery)
    expected = tiny.damped_model(0, {1: basis[1], 2: basis[3], 3: basis[3]}, 0.5, 0.1).double()
    for one in (vla, expected):
        one(**tiny.batch(2, 1))["loss"].backward()
    for (name, found), (_, right) in zip(vla.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(found.grad, right.grad, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.usefixtures("_group")
def test_a_run_leaves_its_numbers(made: SurgeryConfig, tmp_path: Path) -> None:
    vla = DistributedDataParallel(model(), find_unused_parameters=True)
    surgery = attach(vla, config(made), None, tmp_path)
    assert surgery.metrics() == {"surgery/beta": 0.5, "surgery/gamma": 0.1}
    train(vla, surgery, range(7))
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [0, 2, 4, 6]
    assert [line.get("settings") for line in found] == [made.settings(), None, None, None]
    assert [line["cold_start"] for line in found] == [True, True, False, False]
    assert [line["beta"] for line in found[:3]] == [0.5] * 3
    assert found[3]["beta"] == found[2]["next_beta"]
    assert found[3]["next_beta"] != 0.5
    assert found[0]["mean_drift"] < 1e-5 < 1e-3 < found[1]["mean_drift"]
    for line in found:
        assert set(line["d"]) == set(line["drift"]) == {"1", "3"}
        assert set(line["norms"]) == {"1", "2", "3"}
        assert line["norms"]["2"]["g_after"] < line["norms"]["2"]["g"]
    known = surgery.metrics()
    assert known == surgery.metrics()
    assert known["surgery/drift"] == found[3]["mean_drift"]
    assert known["surgery/drift_layer_3"] == found[3]["drift"]["3"]
    assert known["surgery/beta"] == found[3]["next_beta"]
    assert known["surgery/norm_gf_layer_2"] == found[3]["norms"]["2"]["gf"]
    assert known["surgery/probe_seconds"] > 0
    assert all(type(value) is float for value in known.values())


@pytest.mark.parametrize("steady", [False, True], ids=["thermostat", "constants"])
def test_subspaces_of_another_teacher_are_refused_unless_they_are_meant(
    made: SurgeryConfig, tmp_path: Path, steady: bool
) -> None:
    settings = replace(made, thermostat=replace(made.thermostat, enabled=not steady))
    refused(tiny.TinyVLA(1), config(settings, "other-model"), SubspaceError, "subspaces of tiny, and other-model.*")
    refused(tiny.TinyVLA(1), config(settings, "x"), SubspaceError, "--vla_path x.*or set surgery.allow_other_teacher")
    assert isinstance(attach(tiny.TinyVLA(0), config(settings), None, tmp_path), Surgery)
    meant = replace(settings, allow_other_teacher=True)
    vla = tiny.TinyVLA(1)
    train(vla, attach(vla, config(meant), None, tmp_path), range(1))
    assert steady or lines(tmp_path)[-1]["mean_drift"] > 0.5


@pytest.mark.parametrize("kind", [tiny.TinyVLA, tiny.TinyPrismatic])
def test_the_teacher_in_half_precision_is_no_other_teacher(made: SurgeryConfig, tmp_path: Path, kind: Any) -> None:
    """As Hugging Face's class and as the native one; a tenth of the spread more is another model."""
    surgery = replace(made, thermostat=replace(made.thermostat, batch_size=N))
    teacher = Subspaces.load(made.subspace_dir)

    def start(seed: int, moved: float) -> Any:
        model = kind(seed).bfloat16()
        with torch.no_grad():
            for block in model.llm.model.layers:
                spread = teacher.layers[1].pooled.double().std(dim=0).square().sum().sqrt()
                block.down.bias.add_(moved * spread / tiny.HIDDEN**0.5)
        if kind is tiny.TinyVLA:
            return attach(model, config(surgery), None, tmp_path)
        return attach_strategy(strategy(model), train_config(surgery), tmp_path)

    assert isinstance(start(0, 0.0), Surgery)
    with pytest.raises(SubspaceError, match="is another model"):
        start(0, 0.3)
    with pytest.raises(SubspaceError, match="is another model"):
        start(1, 0.0)


def test_the_distance_is_what_a_loop_in_float64_comes_to(made: SurgeryConfig) -> None:
    subspaces = Subspaces.load(made.subspace_dir)
    generator = torch.Generator().manual_seed(3)
    moved = {n: torch.randn(N, tiny.HIDDEN, generator=generator) for n in subspaces.layers}
    asked: list[int] = []

    def states(indices: Any) -> Any:
        asked.extend(indices)
        return {n: of.pooled[list(indices)] + moved[n][list(indices)] for n, of in subspaces.layers.items()}

    found = distances(states, subspaces, 3)
    assert asked == [0, 2, 4]
    for n, of in subspaces.layers.items():
        gaps = [math.dist(moved[n][i].tolist(), [0.0] * tiny.HIDDEN) ** 2 for i in asked]
        mean = [sum(column) / N for column in zip(*of.pooled.tolist(), strict=True)]
        spread = [math.dist(row, mean) ** 2 for row in of.pooled.tolist()]
        assert found[n] == pytest.approx(math.sqrt(sum(gaps) / 3) / math.sqrt(sum(spread) / N), rel=1e-6)
    moved = {n: torch.zeros_like(of.pooled) for n, of in subspaces.layers.items()}
    assert distances(states, subspaces, 99) == dict.fromkeys(subspaces.layers, 0.0)


def test_states_that_are_no_numbers_are_no_teachers(made: SurgeryConfig, tmp_path: Path) -> None:
    vla = tiny.TinyVLA()
    with torch.no_grad():
        vla.language_model.model.layers[3].down.bias.fill_(float("nan"))
    refused(vla, config(made), SubspaceError, "at layer 3 .* lie nan")


def test_a_resumed_run_is_not_measured_against_its_teacher(made: SurgeryConfig, tmp_path: Path) -> None:
    """Its weights have moved away; that they began there its state says."""
    moved = tiny.TinyPrismatic(1)
    checkpoint = tmp_path / "checkpoints" / "step-000003-epoch-00-loss=0.1000.pt"
    first = attach_strategy(strategy(tiny.TinyPrismatic()), train_config(made), tmp_path)
    first.save(checkpoint.parent, 3)
    assert isinstance(attach_strategy(strategy(moved), train_config(made, checkpoint, step=3), tmp_path), Surgery)
    with pytest.raises(SubspaceError, match=f"subspaces of tiny, and {checkpoint}"):
        attach_strategy(strategy(moved), train_config(made, checkpoint, is_resume=False), tmp_path)


def test_a_step_that_neither_logs_nor_measures_asks_the_device_nothing(
    made: SurgeryConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vla = model()
    surgery = attach(vla, config(made), None, tmp_path)
    train(vla, surgery, range(1))

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the host waits for the device")

    loss = vla(**tiny.batch(2, 1, torch.float32))["loss"]
    with monkeypatch.context() as patch:
        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
            patch.setattr(torch.Tensor, name, forbidden)
        loss.backward()
        surgery.before_step(1)
    loss = vla(**tiny.batch(2, 2, torch.float32))["loss"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", forbidden)
        loss.backward()
        with pytest.raises(AssertionError, match="waits"):
            surgery.before_step(2)


def test_measuring_alone_is_the_plain_run_bit_for_bit(made: SurgeryConfig, tmp_path: Path) -> None:
    """The ablation without HSW, and the whole method at beta = gamma = 1."""
    ones = replace(
        made.thermostat, drift_low=0.0, drift_high=1.0, beta_min=1.0, beta_max=1.0, gamma_min=1.0, gamma_max=1.0
    )
    plain = model()
    losses = train(plain, NoSurgery(), range(5))
    for number, settings in enumerate([replace(made, hsw=False), replace(made, beta=1.0, gamma=1.0, thermostat=ones)]):
        vla = model()
        folder = tmp_path / str(number)
        folder.mkdir()
        assert train(vla, attach(vla, config(settings), None, folder), range(5)) == losses
        assert all(torch.equal(value, lora(plain)[name]) for name, value in lora(vla).items())
        assert lines(folder)[-1]["mean_drift"] > 1e-3


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_is_the_uninterrupted_one(made: SurgeryConfig, tmp_path: Path, stop: int) -> None:
    whole_dir, run_dir, adapter = (tmp_path / name for name in ("whole", "run", "adapter"))
    for folder in (whole_dir, run_dir):
        folder.mkdir()
    whole = DistributedDataParallel(model(), find_unused_parameters=True)
    surgery = attach(whole, config(made), None, whole_dir)
    losses = train(whole, surgery, range(9))

    first = DistributedDataParallel(model(), find_unused_parameters=True)
    before = attach(first, config(made), None, run_dir)
    assert train(first, before, range(stop)) == losses[:stop]
    first.module.save_pretrained(adapter)
    before.save(adapter)
    saved = lora(first)
    train(first, before, range(stop, stop + 2))

    second = DistributedDataParallel(model(), find_unused_parameters=True)
    after = attach(second, config(replace(made, resume=adapter)), None, run_dir)
    assert all(torch.equal(value, saved[name]) for name, value in lora(second).items())
    # Upstream's loop counts from zero again.
    assert train(second, after, range(stop, 9), offset=stop) == losses[stop:]
    assert all(torch.equal(value, lora(whole)[name]) for name, value in lora(second).items())
    assert without_settings(lines(run_dir)) == without_settings(lines(whole_dir))
    assert {k: v for k, v in after.metrics().items() if "seconds" not in k} == {
        k: v for k, v in surgery.metrics().items() if "seconds" not in k
    }
    assert after.thermostat.state_dict() == surgery.thermostat.state_dict()


@pytest.fixture
def saved(made: SurgeryConfig, tmp_path: Path) -> Path:
    vla = model()
    (tmp_path / "first").mkdir()
    surgery = attach(vla, config(made), None, tmp_path / "first")
    train(vla, surgery, range(3))
    vla.save_pretrained(tmp_path / "adapter")
    surgery.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(vla: Any, cfg: Any, kind: type[Exception], said: str) -> None:
    """Refused with nothing hooked, nothing changed and nothing written."""
    before = lora(vla)
    run_dir = Path("never/made")
    with pytest.raises(kind, match=said):
        attach(vla, cfg, None, run_dir)
    assert not any(module._forward_hooks for module in vla.modules())
    assert all(torch.equal(value, before[name]) for name, value in lora(vla).items())
    assert not run_dir.exists()


def test_what_is_no_state_of_this_run_is_refused(made: SurgeryConfig, saved: Path) -> None:
    resumed = config(replace(made, resume=saved))
    refused(model(rank=4), resumed, ResumeError, "r=2, this run 4")
    refused(model(alpha=8), resumed, ResumeError, "lora_alpha=4, this run 8")
    refused(model(modules=("mix", "up")), resumed, ResumeError, "LoRA weights differ")
    refused(tiny.TinyVLA(), resumed, ResumeError, "without LoRA.*vla_path")
    (saved / "adapter_config.json").rename(saved / "elsewhere")
    refused(model(), resumed, ResumeError, "no saved adapter")
    (saved / "elsewhere").rename(saved / "adapter_config.json")
    state = (saved / STATE_FILE).read_bytes()
    (saved / STATE_FILE).write_bytes(state[: len(state) // 2])
    refused(model(), resumed, ResumeError, "cannot be read")
    torch.save({"format": 0}, saved / STATE_FILE)
    refused(model(), resumed, ResumeError, "not of format")
    (saved / STATE_FILE).unlink()
    refused(model(), resumed, ResumeError, "no state of gradient surgery")


def test_a_state_of_other_subspaces_is_refused_and_of_other_settings_told(
    made: SurgeryConfig, saved: Path, tmp_path: Path
) -> None:
    other = Subspaces.load(made.subspace_dir)
    layer = other.layers[1]
    swapped = {**other.layers, 1: replace(layer, Uf=layer.Uf.flip(1))}
    meta = {name: value for name, value in other.meta.items() if name != "files"}
    Subspaces(meta, swapped).save(tmp_path / "other")
    refused(
        model(), config(replace(made, resume=saved, subspace_dir=tmp_path / "other")), ResumeError, "other subspaces"
    )
    with pytest.warns(UserWarning, match=r"other values of surgery\.seed"):
        attach(model(), config(replace(made, resume=saved, seed=9)), None, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model(), config(replace(made, resume=saved, log_every=5)), None, tmp_path)


def test_constants_given_to_a_resumed_run_hold(made: SurgeryConfig, saved: Path, tmp_path: Path) -> None:
    steady = replace(made, resume=saved, beta=0.25, thermostat=replace(made.thermostat, enabled=False))
    with pytest.warns(UserWarning, match="those given now hold"):
        surgery = attach(model(), config(steady), None, tmp_path)
    assert surgery.metrics()["surgery/beta"] == surgery.damping.beta == 0.25


def test_subspaces_of_something_else_are_refused(
    made: SurgeryConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Subspaces.load(made.subspace_dir)

    def with_meta(name: str, **changed: Any) -> Any:
        meta = {**{k: v for k, v in read.meta.items() if k != "files"}, **changed}
        Subspaces(meta, read.layers).save(tmp_path / name)
        return config(replace(made, subspace_dir=tmp_path / name))

    of = dict(read.meta["model"])
    refused(model(), with_meta("a", model={**of, "hidden_size": 99}), SubspaceError, "hidden size.*99")
    refused(model(), with_meta("b", model={**of, "num_layers": 32}), SubspaceError, "number of layers.*32")
    refused(model(), with_meta("c", template="In: {instruction}\nOut:"), SubspaceError, "template")
    refused(model(), with_meta("d", probe={"hash": "0"}), SubspaceError, "probe set")
    refused(model(), config(replace(made, subspace_dir=tmp_path / "none")), SubspaceError, "no subspace artifact")
    refused(model(), config(replace(made, beta=2.0)), ValueError, "beta")


def test_a_hook_above_everything_that_is_trained_is_refused(made: SurgeryConfig, tmp_path: Path) -> None:
    vla = tiny.TinyVLA().requires_grad_(False)
    vla.language_model.model.layers[4].requires_grad_(True)
    refused(vla, config(made), ValueError, "nothing that is trained lies at or below layer 1")
    vla.vision_backbone.requires_grad_(True)
    assert isinstance(attach(vla, config(made), None, tmp_path), Surgery)


def test_a_hook_that_never_fires_is_not_passed_over(made: SurgeryConfig, tmp_path: Path) -> None:
    surgery = attach(model(), config(made), None, tmp_path)
    with pytest.raises(RuntimeError, match=r"no gradient has reached .* layers \[1, 2, 3\]"):
        surgery.before_step(0)


def test_a_state_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = {"subspaces": "x", "settings": {}}
    path = tmp_path / "deep" / STATE_FILE
    write_state(path, {"steps": 3, "identity": identity})

    def broken(value: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        write_state(path, {"steps": 4, "identity": identity})
    assert read_state(path, identity)["steps"] == 3
    assert [file.name for file in path.parent.iterdir()] == [STATE_FILE]


def strategy(vlm: Any) -> Any:
    return SimpleNamespace(vlm=vlm, enable_mixed_precision_training=False, mixed_precision_dtype=torch.bfloat16)


def train_config(
    surgery: SurgeryConfig, checkpoint: Path | None = None, is_resume: bool = True, step: Any = None
) -> Any:
    vla = SimpleNamespace(base_vlm="tiny-native")
    return SimpleNamespace(
        surgery=surgery, vla=vla, pretrained_checkpoint=checkpoint, is_resume=is_resume, resume_step=step
    )


@pytest.fixture
def gradient_surgery() -> Iterator[Any]:
    """prismatic/gradient_surgery.py by its place, since ``prismatic`` may be a stand-in's here."""
    name = "prismatic.gradient_surgery"
    spec = importlib.util.spec_from_file_location(name, OVERLAY / "prismatic" / "gradient_surgery.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


def test_the_path_of_train_py(gradient_surgery: Any, made: SurgeryConfig, tmp_path: Path) -> None:
    """attach_strategy, and the bridge's before_step and save; the state is found beside upstream's checkpoint."""
    training = strategy(tiny.TinyPrismatic())
    training.surgery = attach_strategy(training, train_config(made), tmp_path)
    metrics = SimpleNamespace(global_step=0, run_dir=tmp_path)
    for step in range(5):
        training.vlm(**tiny.batch(2, step, torch.float32))["loss"].backward()
        metrics.global_step = step
        gradient_surgery.before_step(training, metrics)
    assert metrics.surgery == training.surgery.metrics() != {}
    metrics.global_step = 5
    gradient_surgery.save(training, metrics)
    checkpoint = tmp_path / "checkpoints" / "step-000005-epoch-00-loss=0.1000.pt"
    assert (checkpoint.parent / f"step-000005-{STATE_FILE}").is_file()

    again = strategy(tiny.TinyPrismatic())
    resumed = attach_strategy(again, train_config(made, checkpoint, step=5), tmp_path)
    assert (resumed.steps, resumed.offset) == (5, 0)
    assert resumed.thermostat.state_dict() == training.surgery.thermostat.state_dict()
    with pytest.raises(ResumeError, match="--is_resume False begins"):
        attach_strategy(strategy(tiny.TinyPrismatic()), train_config(made, checkpoint, step=4), tmp_path)
    fresh = attach_strategy(strategy(tiny.TinyPrismatic()), train_config(made, checkpoint, is_resume=False), tmp_path)
    assert fresh.steps == 0
    with pytest.raises(ResumeError, match=r"finetune\.py's"):
        attach_strategy(strategy(tiny.TinyPrismatic()), train_config(replace(made, resume=tmp_path)), tmp_path)


def test_the_bridge_without_surgery_leaves_upstream_alone(gradient_surgery: Any, tmp_path: Path) -> None:
    metrics = SimpleNamespace(global_step=0, run_dir=tmp_path)
    for training in (SimpleNamespace(), SimpleNamespace(surgery=NoSurgery())):
        gradient_surgery.before_step(training, metrics)
        gradient_surgery.save(training, metrics)
    assert getattr(metrics, "surgery", {}) == {}
    assert list(tmp_path.iterdir()) == []


OFF = """
import sys
from types import SimpleNamespace as S

before = list(sys.path)
from prismatic.gradient_surgery import SurgeryConfig, attach, attach_strategy

cfg = S(surgery=SurgeryConfig())
assert attach(None, cfg, None, "run").metrics() == attach_strategy(None, cfg, "run").metrics() == {}
assert "torch" not in sys.modules
"""
ON = """
from pathlib import Path
from unittest.mock import MagicMock

try:
    attach_strategy(MagicMock(), S(surgery=SurgeryConfig(enabled=True, beta=2.0)), "run")
except ValueError as error:
    assert "beta must satisfy" in str(error), error
else:
    raise AssertionError("the method's own code was not reached")
name = "prismatic.gradient_surgery."
places = {Path(module.__file__) for loaded, module in sys.modules.items() if loaded.startswith(name)}
assert len(places) > 10
assert all(place.is_relative_to(RESEARCH) for place in places), places
"""


@pytest.mark.parametrize("foreign", ["none", "importable", "imported"])
@pytest.mark.parametrize("switched", ["off", "on"])
def test_another_package_called_research_is_never_asked_for(foreign: str, switched: str, tmp_path: Path) -> None:
    """As ``python vla-scripts/finetune.py`` starts it: ``prismatic`` is installed, the checkout's root on no path."""
    installed = tmp_path / "installed" / "prismatic"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("", encoding="utf-8")
    (installed / "gradient_surgery.py").symlink_to(OVERLAY / "prismatic" / "gradient_surgery.py")
    if foreign != "none":
        (tmp_path / "research").mkdir()
        (tmp_path / "research" / "__init__.py").write_text("config = surgery = None", encoding="utf-8")
    code = "import research\n" if foreign == "imported" else ""
    code += OFF + (f"RESEARCH = {str(OVERLAY / 'research')!r}{ON}" if switched == "on" else "")
    code += f"assert sys.path == before\nassert ('research' in sys.modules) is {foreign == 'imported'}\n"
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(installed.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
