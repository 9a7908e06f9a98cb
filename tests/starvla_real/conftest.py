"""What the tests on the real starVLA share. They run in its environment; every run trains for real, on a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import native

from runners.drawing import NoBackend, trial_with
from runners.headless import choose
from tests.standins.used import real

HERE = Path(__file__).parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "CUDA_VISIBLE_DEVICES": ""}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.upstream_heavy)


@pytest.fixture(scope="session")
def grafted() -> Path:
    """The checkout of starVLA with the pack on it; its packages are importable from here on."""
    if not (native.GRAFTED / "starVLA" / "sagr" / "trainer.py").exists():
        pytest.skip("upstreams/starVLA carries no graft: run `python apply.py starVLA`")
    head = subprocess.run(["git", "-C", str(native.GRAFTED), "rev-parse", "HEAD"], capture_output=True, text=True)
    real("starVLA", f"{head.stdout.strip()[:10]} at {native.GRAFTED}")
    os.environ.update(OFFLINE)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(native.GRAFTED))
    return native.GRAFTED


@pytest.fixture(scope="session")
def pristine(grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned commit's own tree, which HEAD of the grafted checkout still is."""
    folder = tmp_path_factory.mktemp("pristine")
    archive = folder.with_suffix(".tar")
    parts = ["starVLA", "deployment", "examples"]
    subprocess.run(["git", "-C", str(grafted), "archive", "-o", str(archive), "HEAD", *parts], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    assert not (folder / "starVLA" / "sagr").exists()
    return folder


@pytest.fixture(scope="session")
def materials(grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL and a small LeRobot data set with depth."""
    folder = tmp_path_factory.mktemp("materials")
    native.run(grafted, folder, HERE / "materials.py", folder)
    return folder


@pytest.fixture(scope="session")
def baseline(pristine: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    """train_starvla.py and QwenPI as upstream has them."""
    return native.train(pristine, tmp_path_factory.mktemp("baseline"), materials)


@pytest.fixture(scope="session")
def trained(grafted: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    """The method on, with depth, guidance and feedback tokens, from the baseline's seed."""
    folder = tmp_path_factory.mktemp("trained")
    return native.train(grafted, folder, materials, *native.ON, framework=native.FRAMEWORK)


@pytest.fixture(scope="session")
def policy(grafted: Path, trained: native.Recorded) -> Any:
    """What upstream's `from_pretrained` makes of the run's own folder."""
    import torch
    from starVLA.model.framework.base_framework import baseframework

    model = baseframework.from_pretrained(str(trained.output / "final_model" / "pytorch_model.pt")).eval()
    # Until it is trained in earnest the predictor expects next to no change, and guides next to nothing.
    torch.manual_seed(0)
    with torch.no_grad():
        torch.nn.init.normal_(model.world_predictor.change[-1].weight, std=0.5)
    return model


@pytest.fixture(scope="session")
def drawing() -> dict[str, str]:
    """The variables with which LIBERO's simulator draws."""
    if not native.SIMULATOR.is_file() or not (native.LIBERO / "libero" / "guard").is_dir():
        pytest.skip("no environment for LIBERO: run `make openvla`")
    try:
        with choose(trial_with([str(native.SIMULATOR)])).environment() as found:
            return found
    except NoBackend as error:
        pytest.skip(str(error))
