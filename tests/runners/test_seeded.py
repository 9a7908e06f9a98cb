"""The seeding launcher: what a script under it sees, and that its random numbers repeat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).resolve().parents[2] / "runners" / "seeded.py"
SCRIPT = "import random, sys, helper; print(__name__, sys.argv, sys.path[0], random.random(), __file__)"


def run(script: Path, *arguments: str, rank: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "RANK"}
    return subprocess.run(
        [sys.executable, str(LAUNCHER), *arguments[:1], str(script), *arguments[1:]],
        env=env if rank is None else env | {"RANK": rank},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").touch()
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def test_the_script_runs_as_if_called_itself(script: Path) -> None:
    out = run(script, "3", "--steps", "5").stdout
    assert out.startswith(f"__main__ ['{script}', '--steps', '5'] {script.parent} ")
    assert out.strip().endswith(str(script))


def test_a_seed_repeats_and_seeds_and_ranks_differ(script: Path) -> None:
    outs = [
        run(script, "3"),
        run(script, "3"),
        run(script, "4"),
        run(script, "3", rank="0"),
        run(script, "3", rank="1"),
    ]
    first, again, other, main, rank = (found.stdout for found in outs)
    assert first == again == main
    assert len({first, other, rank}) == 3


def test_a_wrong_call_is_named(script: Path) -> None:
    assert "usage" in run(script, "x").stderr
    assert "gone.py is not there" in run(script.with_name("gone.py"), "1").stderr
