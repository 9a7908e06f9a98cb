"""Supervise's resume of openvla's own vla-scripts/finetune.py, which has none: on a tiny model, on a processor."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runners.supervise.checkpoints import complaint, found, last_good
from runners.supervise.command import Command, families, recognise
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists() or not (CHECKOUT / "prismatic" / "gradient_surgery.py").exists():
        pytest.skip("no grafted openvla with its environment: `make upstreams` builds it")
    if subprocess.run([str(PYTHON), "-c", "import dlimp"], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} lacks what reads RLDS: `make upstreams` builds it")
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
    run((str(PYTHON), str(ROOT / "tests" / "openvla_real" / "materials.py"), str(folder)), folder)
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


@pytest.mark.upstream
def test_the_folder_of_a_run_with_gradient_surgery_has_its_tag(folder: Path) -> None:
    off = command_in(folder, "--surgery.gamma", "0.2").output.name
    on = command_in(folder, "--surgery.gamma", "0.2", "--surgery.enabled", "True").output.name
    other = command_in(folder, "--surgery.gamma", "0.3", "--surgery.enabled", "True").output.name
    tag = len("+surgery-") + 8
    assert on[:-tag] == other[:-tag] == off
    assert on[-tag:].startswith("+surgery-")
    assert on != other
