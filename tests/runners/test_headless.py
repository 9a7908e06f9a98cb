"""The choice of a GL backend, with made-up trials and made-up programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runners import headless
from runners.headless import NoBackend, choose, trial_with


def fake_xvfb(folder: Path, script: str) -> None:
    """An `Xvfb` in `folder`: a Python script that gets the same arguments."""
    program = folder / "Xvfb"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.fixture
def display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path with nothing but an Xvfb that says display 77 and notes its process id."""
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    fake_xvfb(tmp_path, f"{note}; os.write(int(sys.argv[2]), b'77\\n'); time.sleep(60)")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_first_that_draws_is_taken_and_the_others_reasons_are_kept() -> None:
    asked: list[str] = []

    def trial(environment: Mapping[str, str]) -> str | None:
        asked.append(environment["MUJOCO_GL"])
        return "no device" if environment["MUJOCO_GL"] == "egl" else None

    backend = choose(trial)
    assert (backend.name, backend.refused, asked) == ("osmesa", {"egl": "no device"}, ["egl", "osmesa"])
    with backend.environment() as environment:
        assert environment == {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}


def test_glx_is_tried_under_an_xvfb_which_ends_with_its_use(display: Path) -> None:
    def trial(environment: Mapping[str, str]) -> str | None:
        return None if environment.get("DISPLAY") == ":77" else "no screen"

    backend = choose(trial)
    assert backend.name == "glx"
    assert set(backend.refused) == {"egl", "osmesa"}
    with backend.environment() as environment:
        assert environment["DISPLAY"] == ":77"
        server = int((display / "pid").read_text(encoding="utf-8"))
        os.kill(server, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_when_nothing_draws_every_reason_and_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoBackend) as refusal:
        choose(lambda environment: f"{environment['MUJOCO_GL']} is broken")
    for text in ("egl is broken", "osmesa is broken", "Xvfb is not installed", *headless.REMEDIES.values()):
        assert text in str(refusal.value)


def test_an_xvfb_that_does_not_start_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_xvfb(tmp_path, "sys.exit('no fonts here')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoBackend, match="no fonts here"):
        choose(lambda _: None, ["glx"])


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import sys; sys.exit('libEGL is missing')", "libEGL is missing"),
        ("pass", "exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
        ("print('drawn')", None),
    ],
)
def test_a_trial_is_a_process_that_has_to_draw(script: str, why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headless, "TRIAL", script)
    found = trial_with([sys.executable])({"MUJOCO_GL": "egl"})
    assert (found is None) if why is None else (found is not None and why in found)


def test_a_trial_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headless, "TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(headless, "PATIENCE", 0.2)
    assert "nothing drawn" in str(trial_with([sys.executable])({}))
