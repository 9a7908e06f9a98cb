"""Vector environments take gym where it is, else gymnasium, and say what is missing where neither is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.libero.overlays import LIBERO

FILE = LIBERO / "libero/envs/gym_api.py"
TRY = f"import runpy; print(runpy.run_path({str(FILE)!r})['gym'].__name__)"


def found(tmp_path: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Runs the module where only ``names`` are installed."""
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("class Env: ...\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{TRY}"
    return subprocess.run([sys.executable, "-S", "-E", "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("names", "expected"), [(("gym", "gymnasium"), "gym"), (("gym",), "gym"), (("gymnasium",), "gymnasium")]
)
def test_which_one_is_taken(names: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    assert found(tmp_path, *names).stdout.strip() == expected


def test_neither_is_said(tmp_path: Path) -> None:
    ran = found(tmp_path)
    assert ran.returncode
    assert "ModuleNotFoundError" in ran.stderr
    assert "pip install gymnasium" in ran.stderr


def test_a_broken_gym_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gym").mkdir()
    (tmp_path / "gym/__init__.py").write_text("raise ValueError('broken')\n")
    ran = found(tmp_path, "gymnasium")
    assert "ValueError: broken" in ran.stderr
