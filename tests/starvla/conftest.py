"""Shared by the tests of starVLA's overlay: its package is importable as ``sagr``, without the rest of starVLA; and the
stand-in is grafted once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.standins.starvla_project import StarVLAProject
from tests.standins.used import stands_in

PACKAGE = Path(__file__).resolve().parents[2] / "overlays" / "starVLA" / "starVLA"

for place in (PACKAGE, Path(__file__).parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from toy import Toy, make_toy  # noqa: E402


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> StarVLAProject:
    """The stand-in, plain and with every pack of this repository applied."""
    stands_in("starVLA", "tests/starvla trains a small model of this project's own")
    return StarVLAProject.make(tmp_path_factory.mktemp("starVLA"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy") / "world")
