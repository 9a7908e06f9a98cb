"""Shared by the tests of openvla's overlay: it is importable as ``research``, and the stand-in is grafted once.

The stand-in's tree comes last on the path, for upstream's names where a unit test needs them; nothing there hides an
installed package.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.standins.openvla_project import OVERLAY, STANDIN, OpenVLAProject
from tests.standins.used import stands_in

for place in (OVERLAY, Path(__file__).parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
if str(STANDIN) not in sys.path:
    sys.path.append(str(STANDIN))

DOWNSTREAM, GENERAL = "libero_spatial_no_noops", "toy_general"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "upstream_heavy: runs on the real openvla, minutes long")


@dataclass(frozen=True)
class Materials:
    """What a native run takes: a checkpoint of a barely trained model, two data sets below one root."""

    checkpoint: Path
    data: Path


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> OpenVLAProject:
    """The stand-in, plain and with every pack of this repository applied."""
    stands_in("openvla", "tests/openvla trains a small model of this project's own")
    return OpenVLAProject.make(tmp_path_factory.mktemp("openvla"))


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """Enough of a model for runs of a few steps, which need no accuracy."""
    import torch
    from toy_world.batches import write_data
    from toy_world.pretrain import pretrain
    from toy_world.tasks import make_world

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("materials")
    world = make_world(0)
    write_data(root / "data", DOWNSTREAM, world.samples("downstream", 96))
    write_data(root / "data", GENERAL, world.samples("general", 96, "probe"))
    checkpoint = pretrain(root / "toy-7b", steps=12, samples=64)
    torch.set_num_threads(threads)
    return Materials(checkpoint, root / "data")
