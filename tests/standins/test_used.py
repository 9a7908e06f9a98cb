"""A run's last lines say which upstreams were real, and ``--require-upstream`` lets no stand-in pass for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.standins import used
from tests.standins.used import States, real, stands_in, summary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def states(monkeypatch: pytest.MonkeyPatch) -> States:
    """States of their own, so that this run's last lines stay true."""
    fresh = States()
    monkeypatch.setattr(used, "STATES", fresh)
    return fresh


def test_the_summary_has_a_line_for_each(states: States) -> None:
    assert summary() == []
    real("openvla", "c8f03f48af at there")
    stands_in("LIBERO", "no git host")
    stands_in("openvla", "for speed")
    assert summary() == [
        "upstreams: LIBERO stand-in (no git host)",
        "upstreams: openvla real (c8f03f48af at there) and stand-in (for speed)",
    ]


def test_a_required_upstream_lets_nothing_stand_in(states: States) -> None:
    states.begin(["openvla"])
    stands_in("LIBERO", "no git host")
    with pytest.raises(pytest.fail.Exception, match=r"--require-upstream openvla: .*\(no git host\)"):
        stands_in("openvla", "no git host")
    assert states.missing() == ["openvla"]
    real("openvla", "here")
    assert states.missing() == []


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--require-upstream", "openvla"), 1)])
def test_a_run_that_used_nothing_real_fails_where_it_was_required(options: tuple[str, ...], code: int) -> None:
    chosen = "tests/standins/test_used.py::test_the_summary_has_a_line_for_each"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert ("ERROR --require-upstream openvla: no test of this run used the real one" in done.stdout) is bool(code)
    assert done.stdout.rstrip().splitlines()[-1].startswith("1 passed")
