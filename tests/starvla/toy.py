"""The toy world of starVLA's stand-in on disk, for tests that train in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.standins.starvla_project import STANDIN


@dataclass(frozen=True)
class Toy:
    """The YAML of a run, the vision-language model's folder, and the folder of the data sets."""

    config: Path
    model: Path
    data: Path


def make_toy(root: Path) -> Toy:
    """In a process of its own: the stand-in's modules have the names of the real ones."""
    command = [sys.executable, "-m", "toy_world", str(root)]
    subprocess.run(command, cwd=STANDIN, check=True, capture_output=True)
    return Toy(root / "toy.yaml", root / "Qwen2.5-VL-toy", root / "data")
