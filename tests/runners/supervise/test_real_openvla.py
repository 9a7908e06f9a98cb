"""Supervise's resume of openvla's own vla-scripts/finetune.py, which has none: on a tiny model, on a processor."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from runners.supervise.checkpoints import complaint, found, last_good
from runners.supervise.command import Command, families, recognise
from tests.launching.shims import openvla_folder
from tests.runners.supervise.real_runs import RealRun
from tests.standins.used import real

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = ROOT / "upstreams" / "openvla"
PYTHON = ROOT / ".venvs" / "openvla" / "bin" / "python"
TOLD = {
    "PYTHONPATH": str(CHECKOUT),
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "HF_HUB_OFFLINE": "1",
    "NO_GCE_CHECK": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def materials(folder: Path) -> Path:
    """`folder`, with the tiny models and data in it; what is there already stays."""
    run((str(PYTHON), str(ROOT / "tests" / "openvla_real" / "materials.py"), str(folder)), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists() or not (CHECKOUT / "prismatic" / "gradient_surgery.py").exists():
        pytest.skip("no grafted openvla with its environment: `make openvla` builds it")
    if subprocess.run([str(PYTHON), "-c", "import dlimp"], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} lacks what reads RLDS: `make openvla` builds it")
    real("openvla", f"the grafted checkout at {CHECKOUT}")
    return tmp_path_factory.mktemp("openvla")


def run(words: tuple[str, ...], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, env={**os.environ, **TOLD}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def command_in(folder: Path, *options: str) -> Command:
    launchers = ROOT / "runners"
    words = [str(PYTHON), str(launchers / "seeded.py"), "7", str(launchers / "openvla_on_cpu.py")]
    own = {
        "vla_path": "openvla-tiny",
        "data_root_dir": "rlds",
        "dataset_name": "libero_spatial_no_noops",
        "batch_size": "2",
        "max_steps": "4",
        "save_steps": "2",
        "lora_rank": "4",
        "shuffle_buffer_size": "64",
    }
    named = [part for key, value in own.items() for part in (f"--{key}", value)]
    words += [str(CHECKOUT / "vla-scripts" / "finetune.py"), *named, *options]
    return recognise(words, folder, TOLD, families())


@pytest.mark.upstream_heavy
def test_a_fine_tuning_goes_on_with_its_merged_model(folder: Path) -> None:
    materials(folder)
    command = command_in(folder).resumable()
    assert command.python == str(PYTHON)
    run(command.words, folder)
    assert [item.step for item in found(command)] == [2, 4]
    assert [complaint(item, command) for item in found(command)] == [None, None]
    assert command.output.is_dir()

    resumed = command.resumed(found(command)[0])
    assert not resumed.output.exists()
    run(resumed.words, folder)
    assert resumed.output.is_dir()
    items = found(command)
    assert [item.step for item in items] == [2, 4, 4]
    assert items[-1].path.name == f"{resumed.output.name}--2_chkpt"
    assert found(resumed) == items
    assert last_good(command, pytest.fail) == items[-1]
    runs = {path.name for path in (folder / "runs").iterdir()}
    assert runs == {command.output.name, resumed.output.name, "continued", *(item.path.name for item in items)}


@pytest.mark.upstream_heavy
def test_a_fine_tuning_that_is_killed_goes_on_with_the_steps_that_are_left(folder: Path, tmp_path: Path) -> None:
    total, every, draw = 16, 4, random.Random(20261122)
    materials(folder)
    for name in ("openvla-tiny", "rlds"):
        (tmp_path / name).symlink_to(folder / name)
    command = command_in(tmp_path, "--max_steps", str(total), "--save_steps", str(every))
    killed = RealRun(tmp_path, command.words, {**os.environ, **TOLD})
    killed.start()
    killed.kill_at(draw.randint(every + 2, 2 * every + 2), rf"(\d+)/{total} \[", "vla-scripts/finetune.py", draw)
    assert killed.end() == 0, killed.said
    assert killed.remedies == ["killed/resume"], killed.said
    first, second = killed.decisions("attempt")
    items = {item.path: item.step for item in found(command.resumable())}
    taken = items[Path(second["begun"])]
    assert every <= taken < total
    assert (first["offset"], second["offset"]) == (0, taken)
    assert {*range(every, total + 1, every)} == {*items.values()}
    assert last_good(command.resumable(), pytest.fail) is not None
    # finetune.py logs every tenth loss only; the end is told by what was saved.
    assert f"ended well at step {total}" in killed.said


@pytest.mark.upstream_heavy
def test_full_training_on_two_ranks_of_which_one_is_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    total, every, script = 12, 3, "vla-scripts/train.py"
    openvla_folder(materials(folder), tmp_path)
    own = {
        "vla.type": "prism-dinosiglip-224px+mx-oxe-magic-soup-plus",
        "vla.data_mix": "libero_spatial_no_noops",
        "vla.expected_world_size": "2",
        "vla.global_batch_size": "4",
        "vla.per_device_batch_size": "2",
        "vla.max_steps": str(total),
        "vla.shuffle_buffer_size": "64",
        "vla.enable_mixed_precision_training": "False",
        "data_root_dir": str(folder / "rlds"),
        "run_root_dir": "runs",
        "trackers": '["jsonl"]',
        "hf_token": "NO_TOKEN",
        "save_interval": str(every),
    }
    named = [part for key, value in own.items() for part in (f"--{key}", value)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    killed = RealRun(tmp_path, [PYTHON, *launcher, script, *named], {**os.environ, **TOLD, "NO_TOKEN": "none"})
    killed.start()
    killed.wait(lambda: [*tmp_path.glob(f"runs/*/checkpoints/step-{2 * every:06d}-*")], "at the second checkpoint")
    worker = next(pid for pid in killed.of(script) if "torch.distributed.run" not in killed.running()[pid])
    os.kill(worker, signal.SIGKILL)
    assert killed.end() == 0, killed.said
    assert killed.remedies == ["killed/resume"], killed.said
    begun = killed.begun[1]
    assert begun is not None
    assert begun.startswith((f"step-{every:06d}-", f"step-{2 * every:06d}-"))
    (run_folder,) = tmp_path.glob("runs/prism-*")
    steps = [int(path.name.split("-")[1]) for path in (run_folder / "checkpoints").glob("step-*")]
    assert sorted(steps) == [*range(every, total + 1, every)]
    rows = map(json.loads, (run_folder / f"{run_folder.name}.jsonl").read_text(encoding="utf-8").splitlines())
    assert [row["VLA Train/Step"] for row in rows][-1] == total


@pytest.mark.upstream
def test_the_folder_of_a_run_with_gradient_surgery_has_its_tag(folder: Path) -> None:
    off = command_in(folder, "--surgery.gamma", "0.2").output.name
    on = command_in(folder, "--surgery.gamma", "0.2", "--surgery.enabled", "True").output.name
    other = command_in(folder, "--surgery.gamma", "0.3", "--surgery.enabled", "True").output.name
    tag = len("+surgery-") + 8
    assert on[:-tag] == other[:-tag] == off
    assert on[-tag:].startswith("+surgery-")
    assert on != other
