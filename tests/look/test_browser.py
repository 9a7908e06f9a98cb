"""Pages that no browser can draw: skipped on a desk, failed in continuous integration, and the remedy is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRAWS = "tests/graft/test_timeline.py::test_keys_go_from_commit_to_commit"


@pytest.mark.parametrize(
    ("ci", "code", "outcome"), [("", 0, "1 skipped"), ("false", 0, "1 skipped"), ("1", 1, "1 error")]
)
def test_without_chromium(ci: str, code: int, outcome: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", DRAWS]
    bare = {**os.environ, "PATH": str(tmp_path), "CI": ci, "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert outcome in ran.stdout
    assert "no chromium on this machine (apt-get install chromium)" in ran.stdout


def test_ci_says_that_it_is_one() -> None:
    assert "\nexport CI=1\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
