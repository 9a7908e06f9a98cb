"""What the tests on the real openvla share. They run in its environment; every run trains for real, on a processor."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import native

from tests.standins.used import real

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.upstream_heavy)


@pytest.fixture(scope="session")
def grafted() -> Path:
    """The checkout of openvla with the packs on it."""
    if not (native.GRAFTED / "prismatic" / "gradient_surgery.py").exists():
        pytest.skip("upstreams/openvla carries no graft: run `python apply.py openvla`")
    head = subprocess.run(["git", "-C", str(native.GRAFTED), "rev-parse", "HEAD"], capture_output=True, text=True)
    real("openvla", f"{head.stdout.strip()[:10]} at {native.GRAFTED}")
    return native.GRAFTED


@pytest.fixture(scope="session")
def pristine(grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned commit's own tree, which HEAD of the grafted checkout still is."""
    folder = tmp_path_factory.mktemp("pristine")
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "-C", str(grafted), "archive", "-o", str(archive), "HEAD"], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    assert not (folder / "research").exists()
    return folder


@pytest.fixture(scope="session")
def materials(grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, a tiny PrismaticVLM and a small RLDS set."""
    folder = tmp_path_factory.mktemp("materials")
    native.run(grafted, folder, HERE / "materials.py", folder)
    return folder


@pytest.fixture(scope="session")
def baseline(pristine: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Recorded:
    """finetune.py as upstream has it."""
    return native.finetune(pristine, tmp_path_factory.mktemp("baseline"), materials)


@pytest.fixture(scope="session")
def probe(grafted: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe set of 24 pairs from the RLDS set, by the command."""
    folder = tmp_path_factory.mktemp("probe")
    native.run(grafted, folder, *native.probe_command(materials, 7), "--out", "set")
    return folder / "set"


@pytest.fixture(scope="session")
def subspaces(grafted: Path, materials: Path, probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ICSM of layers 1 (shared with 0) and 2 of the tiny checkpoint, by the command."""
    folder = tmp_path_factory.mktemp("icsm")
    native.run(
        grafted,
        folder,
        *["-m", "research.icms.offline_icms", "--vla_path", materials / "openvla-tiny", "--probe", probe],
        *["--out", "subspaces", "--layers", "1,2", "--groups", "1:0-1", "--r", 12, "--draws", 32],
    )
    return folder / "subspaces"


@pytest.fixture(scope="session")
def on(subspaces: Path, probe: Path) -> list[object]:
    """The options that switch the method on, with a thermostat that measures at steps 0, 4 and 8 and then steers."""
    surgery = {
        "enabled": "true",
        "subspace_dir": subspaces,
        "probe_dir": probe,
        "log_every": 2,
        "thermostat.every": 4,
        "thermostat.samples": 8,
        "thermostat.cold_start": 2,
    }
    return [part for key, value in surgery.items() for part in (f"--surgery.{key}", value)]


@pytest.fixture(scope="session")
def method(
    grafted: Path, materials: Path, on: list[object], tmp_path_factory: pytest.TempPathFactory
) -> native.Recorded:
    """finetune.py with the method on, from the baseline's seed."""
    return native.finetune(grafted, tmp_path_factory.mktemp("method"), materials, *on)
