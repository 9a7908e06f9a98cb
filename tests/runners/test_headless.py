"""The choice of a GL backend, with made-up trials and made-up programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from runners import drawing, egl_devices, headless, table
from runners.drawing import NoBackend, trial_with
from runners.egl_devices import devices_with
from runners.headless import choose
from runners.table import ROOT


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


def test_a_talkative_xvfb_does_not_stop_and_its_last_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "written"
    fake_xvfb(
        tmp_path,
        f"os.write(2, b'x' * (1 << 20)); open({str(written)!r}, 'w').close(); os.write(int(sys.argv[2]), b'78\\n')\n"
        "time.sleep(60)",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with headless.Backend("glx", {}).environment() as environment:
        assert environment["DISPLAY"] == ":78"
        assert written.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_the_screen_ends_where_headless_is_killed(display: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\nfrom runners.headless import Backend\n"
        "with Backend('glx', {}).environment():\n    print('up', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        server = int((display / "pid").read_text(encoding="utf-8"))
        process.kill()
    until = time.monotonic() + 10
    while alive(server) and time.monotonic() < until:
        time.sleep(0.02)
    ended = not alive(server)
    if not ended:
        os.kill(server, signal.SIGKILL)
    assert ended


def alive(process: int) -> bool:
    """Whether it runs: one that has ended may stand in the table of processes until its parent has asked for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
    monkeypatch.setattr(drawing, "TRIAL", script)
    found = trial_with([sys.executable])({"MUJOCO_GL": "egl"})
    assert (found is None) if why is None else (found is not None and why in found)


def test_a_trial_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(drawing, "PATIENCE", 0.2)
    assert "nothing drawn" in str(trial_with([sys.executable])({}))


@pytest.mark.parametrize(
    ("variables", "robosuite", "expected"),
    [
        ({}, True, [None, "0", "1", "2"]),
        ({"MUJOCO_EGL_DEVICE_ID": "2"}, True, ["2"]),
        # Empty it is no number to robosuite: one has to be said.
        ({"CUDA_VISIBLE_DEVICES": ""}, True, ["0", "1", "2"]),
        ({"CUDA_VISIBLE_DEVICES": "2,1"}, True, ["1", "2"]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, False, ["2", None, "0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-0a1c"}, True, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "7"}, False, [None, "0", "1", "2"]),
    ],
)
def test_egl_devices_are_those_that_robosuite_takes(
    variables: Mapping[str, str], robosuite: bool, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egl_devices, "DEVICES", f'print(\'{{"devices": 3, "robosuite": {str(robosuite).lower()}}}\')')
    assert devices_with([sys.executable], variables)() == expected


def test_a_mismatch_is_a_reason_to_leave_egl_and_so_is_a_machine_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egl_devices, "DEVICES", 'print(\'{"devices": 1, "robosuite": true}\')')
    mismatch = devices_with([sys.executable], {"CUDA_VISIBLE_DEVICES": "3"})
    backend = choose(lambda _: None, devices=mismatch)
    assert backend.name == "osmesa"
    assert "CUDA_VISIBLE_DEVICES=3 names none of the 1 EGL devices" in backend.refused["egl"]
    monkeypatch.setattr(egl_devices, "DEVICES", "raise SystemExit('no libEGL')")
    assert "no libEGL" in choose(lambda _: None, devices=devices_with([sys.executable], {})).refused["egl"]


def test_the_first_device_that_draws_is_told_to_the_command() -> None:
    def trial(environment: Mapping[str, str]) -> str | None:
        return None if environment.get("MUJOCO_EGL_DEVICE_ID") == "1" else "a display without a driver"

    backend = choose(trial, devices=lambda: [None, "0", "1"])
    assert backend.variables == {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "MUJOCO_EGL_DEVICE_ID": "1"}
    with pytest.raises(NoBackend, match="egl: a display without a driver; device 0: a display without a driver"):
        choose(trial, ["egl"], lambda: [None, "0"])


def draws_with(*names: str) -> str:
    """A trial that the standard library can run: it draws where MUJOCO_GL is one of `names`."""
    return f"import os, sys\nif os.environ['MUJOCO_GL'] in {names!r}: print('drawn')\nelse: sys.exit('dark')"


def test_without_a_command_the_lines_for_a_shell_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(drawing, "HAS_MUJOCO", "")
    monkeypatch.setattr(drawing, "TRIAL", draws_with("osmesa"))
    assert headless.main(["--python", sys.executable]) == 0
    said = capsys.readouterr()
    assert said.out == "export MUJOCO_GL=osmesa\nexport PYOPENGL_PLATFORM=osmesa\n"
    assert said.err.startswith("egl does not draw here: ")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert headless.main(["--python", sys.executable, "--gl", "egl"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert headless.REMEDIES["egl"] in said.err


def test_glx_without_a_command_is_refused_since_its_screen_would_be_gone(
    display: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawing, "HAS_MUJOCO", "")
    monkeypatch.setattr(drawing, "TRIAL", draws_with("glx"))
    assert headless.main(["--python", sys.executable]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "say headless -- COMMAND" in said.err


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("import os, sys; sys.exit(7 if os.environ['DISPLAY'] == ':77' else 1)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_a_command_s_exit_code_is_its_own_and_the_screen_ends(
    script: str, code: int, display: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "HAS_MUJOCO", "")
    monkeypatch.setattr(drawing, "TRIAL", draws_with("glx"))
    assert headless.main(["--python", sys.executable, "--gl", "glx", "--", sys.executable, "-c", script]) == code
    with pytest.raises(ProcessLookupError):
        os.kill(int((display / "pid").read_text(encoding="utf-8")), 0)
    assert headless.main(["--python", sys.executable, "--gl", "glx", "--", "no-such-program"]) == 127


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command_and_the_screen_ends_after_it(display: Path, sign: signal.Signals) -> None:
    child = (
        "import signal, sys, time, os\n"
        f"signal.signal({int(sign)}, lambda *_: (print('told', flush=True), sys.exit(5)))\n"
        "print('up', os.getpid(), flush=True)\ntime.sleep(60)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom runners import __main__ as entry, drawing\n"
        "drawing.HAS_MUJOCO = ''\n"
        f"drawing.TRIAL = {draws_with('glx')!r}\n"
        f"sys.exit(entry.main(['--here', 'headless', '--python', {sys.executable!r}, '--gl', 'glx', '--', "
        f"{sys.executable!r}, '-c', {child!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("up ")
        os.kill(int((display / "pid").read_text(encoding="utf-8")), 0)
        process.send_signal(sign)
        assert process.stdout.read() == "told\n"
    assert process.returncode == 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((display / "pid").read_text(encoding="utf-8")), 0)


def test_sigterm_while_the_choice_is_made_ends_the_screen(display: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom runners import __main__ as entry, drawing\n"
        "drawing.HAS_MUJOCO = ''\n"
        f"drawing.TRIAL = {'import time; time.sleep(60)'!r}\n"
        f"sys.exit(entry.main(['--here', 'headless', '--python', {sys.executable!r}, '--gl', 'glx']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        noted = display / "pid"
        while not (noted.exists() and noted.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.terminate()
        assert process.wait(30) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text(encoding="utf-8")), 0)


def python_in(folder: Path, name: str = "python", *, mujoco: bool) -> str:
    """An interpreter that has mujoco or not; nothing but that can be asked of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nexit {int(not mujoco)}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_the_command_s_own_interpreter_is_taken_then_path_s_the_caller_s_and_a_built_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, on_path = python_in(tmp_path / "own", mujoco=True), python_in(tmp_path / "path", mujoco=True)
    caller = python_in(tmp_path / "caller", mujoco=True)
    built = python_in(tmp_path / ".venvs" / next(reversed(table.BUILT_BY)) / "bin", mujoco=True)
    python_in(tmp_path / ".venvs" / "openvla" / "bin", mujoco=False)
    for name, first in (("direct", f"#!{own}"), ("long", f'#!/bin/sh\n\'\'\'exec\' "{own}" "$0" "$@"')):
        (tmp_path / "path" / name).write_text(f"{first}\n", encoding="utf-8")
        (tmp_path / "path" / name).chmod(0o755)
    python_in(tmp_path / "path", "env-one", mujoco=True)
    (tmp_path / "path" / "env-one").write_text("#!/usr/bin/env python\n", encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv(table.CALLER, caller)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(headless.sys, "executable", python_in(tmp_path / "engine", mujoco=False))
    for command, expected in (
        ([own, "evaluate.py"], own),
        (["direct", "--suite", "x"], own),
        (["long"], own),
        (["env-one"], on_path),
        (["no-such-program"], on_path),
        ([], on_path),
    ):
        assert headless.interpreter_for(command) == expected, command
    python_in(tmp_path / "path", mujoco=False)
    assert headless.interpreter_for(["env-one"]) == caller
    python_in(tmp_path / "caller", mujoco=False)
    assert headless.interpreter_for([own]) == own
    assert headless.interpreter_for([]) == built
    python_in(Path(built).parent, mujoco=False)
    assert headless.interpreter_for([]) is None


def test_where_no_interpreter_has_mujoco_that_is_told_once_and_nothing_about_drawing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    without = python_in(tmp_path, mujoco=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(headless.sys, "executable", without)
    monkeypatch.setattr(table, "ROOT", tmp_path)
    assert headless.main([]) == 2
    assert "name one with --python" in capsys.readouterr().err
    for python, why in ((without, "has no mujoco"), (str(tmp_path / "none"), "does not start")):
        assert headless.main(["--python", python]) == 2
        said = capsys.readouterr().err
        assert f"error: {python} {why}" in said
        assert "-m pip install mujoco" in said
        assert "apt-get" not in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("name", headless.ORDER)
def test_a_real_command_draws_with(name: str) -> None:
    python = headless.interpreter_for([])
    if python is None:
        pytest.skip("no interpreter with mujoco: run `make openvla`")
    command = ["--gl", name, "--python", python, "--", python, "-c", drawing.TRIAL]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "runners"), "--here", "headless", *command], capture_output=True, text=True
    )
    if ran.returncode == 1 and "no way to draw" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    assert (ran.returncode, ran.stdout) == (0, "drawn\n")
