"""`python -m runners`: names, environments, interpreters, and what is said where one is not there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runners import __main__ as entry
from runners import table
from runners.table import BUILT_BY, RUNNERS, SHIMS, Runner, UnknownRunner, find, overview

ROOT = table.ROOT


def run(*words: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    around = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GRAFT_HERE")}
    return subprocess.run([sys.executable, *words], cwd=cwd, env={**around, **more}, capture_output=True, text=True)


def test_every_runner_is_listed_by_group_with_its_environment() -> None:
    listed = run("-m", "runners")
    assert listed.returncode == 0
    assert listed.stdout.rstrip("\n") == overview()
    lines = listed.stdout.splitlines()
    for runner in RUNNERS:
        (line,) = [line for line in lines if line.startswith(f"  {runner.name} ")]
        assert runner.says in line
        assert f"[{runner.environment or 'any Python from 3.10'}" in line
    for shim in SHIMS:
        assert (ROOT / shim.split()[0]).is_file()
        assert shim in listed.stdout
    assert run("-m", "runners", "--help").stdout == listed.stdout


def test_the_table_names_files_and_make_targets_that_are_there() -> None:
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()}
    for runner in RUNNERS:
        path = ROOT / Path(*runner.module.split("."))
        assert path.with_suffix(".py").is_file()
        assert runner.environment is None or BUILT_BY[runner.environment].removeprefix("make ") in targets


def test_no_runner_can_be_called_as_a_script() -> None:
    for runner in RUNNERS:
        text = (ROOT / Path(*runner.module.split("."))).with_suffix(".py").read_text(encoding="utf-8")
        assert '__name__ == "__main__"' not in text, runner.module
        assert "sys.path.insert(0, str(Path(__file__)" not in text, runner.module


def test_both_spellings_are_one_name_and_a_slip_gets_the_nearest() -> None:
    assert find("analyze_oid") is find("analyze-oid")
    with pytest.raises(UnknownRunner, match="analyse_oid: did you mean analyze-oid"):
        find("analyse_oid")
    with pytest.raises(UnknownRunner, match="lists them"):
        find("qqqqq")
    with pytest.raises(UnknownRunner, match="mean infodyn-llamafactory or infodyn-digits"):
        find("infodyn")
    slip = run("-m", "runners", "headles")
    assert (slip.returncode, slip.stdout) == (2, "")
    assert "did you mean headless?" in slip.stderr


def test_the_folder_runs_from_anywhere_and_hides_no_package(tmp_path: Path) -> None:
    shown = run(str(ROOT / "runners"), "--here", "places", "--work", str(tmp_path), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"work         {tmp_path}" in shown.stdout
    # The folder itself must not stand in the search path: its lerobot.py would be taken for the package.
    code = "import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_path(sys.argv[0]); print(sys.path[0])"
    folder = str(ROOT / "runners")
    seen = run("-c", f"import sys; sys.argv = [{folder!r}]; sys.path.insert(0, {folder!r}); {code}", cwd=tmp_path)
    assert seen.stdout.splitlines()[-1] == str(ROOT), seen.stderr


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder whose environments are made by the test."""
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.delenv(entry.HERE, raising=False)
    return tmp_path


def test_it_goes_on_in_the_runner_s_own_interpreter_once(
    environments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = environments / ".venvs" / "infodyn" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    calls: list[list[str]] = []

    class Replaced(Exception):
        pass

    def execv(path: Path, words: list[str]) -> None:
        assert path == python
        calls.append(words)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Replaced):
        entry.main(["analyze_oid", "--run-dir", "a b"])
    assert calls == [[str(python), str(ROOT / "runners"), "--here", "analyze-oid", "--run-dir", "a b"]]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(python) in said
    monkeypatch.setattr(sys, "prefix", str(environments / ".venvs" / "infodyn"))
    assert entry.go_on(find("analyze-oid"), []) is None
    assert len(calls) == 1


def pythons() -> list[list[str]]:
    """Interpreters with nothing beside the standard library: this one, and an older one where there is one."""
    older = Path(ROOT, ".venvs", "starVLA", "bin", "python").resolve()
    return [[str(python), "-I", "-S"] for python in (sys.executable, older) if Path(python).exists()]


@pytest.mark.parametrize("name", ["places", "headless", "libero-assets"])
def test_what_needs_the_standard_library_alone_runs_on_a_fresh_clone(name: str, tmp_path: Path) -> None:
    """Without .venvs, in the interpreter that it is called with."""
    for folder in ("runners", "look"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "places.toml"))
    assert find(name).environment is None
    for python in pythons():
        around = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        command = [*python, str(tmp_path / "runners"), name]
        shown = subprocess.run([*command, "--help"], env=around, capture_output=True, text=True)
        assert (shown.returncode, shown.stderr) == (0, ""), python
        assert f"python -m runners {name}" in shown.stdout
        if name == "places":
            ran = subprocess.run(command, env=around, capture_output=True, text=True)
            assert (ran.returncode, ran.stderr) == (0, "")
            assert f"hf_home      {tmp_path}/.cache/huggingface" in ran.stdout


def test_too_old_a_python_goes_on_in_the_engine_s_and_is_handed_through(
    environments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 13))
    monkeypatch.setenv(table.CALLER, "")
    assert entry.go_on(find("headless"), []) == 2
    assert "headless runs in Python 3.10 or later" in capsys.readouterr().err
    python = environments / ".venvs" / "engine" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    calls: list[tuple[Path, str]] = []
    monkeypatch.setattr(os, "execv", lambda path, _: calls.append((path, os.environ[table.CALLER])))
    entry.go_on(find("headless"), [])
    assert calls == [(python, sys.executable)]


def test_the_package_can_be_looked_up_by_a_python_without_orig_argv() -> None:
    """Before 3.10; `-m` is what stands in argv[0] while the module is looked up."""
    ran = run("-c", "import sys; del sys.orig_argv; sys.argv = ['-m']; import runners")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_environment_that_is_not_built_is_named_with_its_target(
    environments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["infodyn-digits"]) == 2
    said = capsys.readouterr().err
    assert "`make infodyn`" in said
    assert str(environments / ".venvs" / "infodyn" / "bin" / "python") in said
    assert "[infodyn, not built: make infodyn]" in overview()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_interpreter_can_be_kept(how: str, environments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "variable":
        monkeypatch.setenv(entry.HERE, "1")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    words = ["places", "--work", str(environments)]
    assert entry.main(words if how == "variable" else ["--here", *words]) == 0


def test_a_package_that_is_missing_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing beside the standard library.
    bare = run("-I", "-S", str(ROOT / "runners"), "--here", "infodyn-digits", "--help")
    assert bare.returncode == 2
    assert "Traceback" not in bare.stderr
    assert "`make infodyn` builds" in bare.stderr


@pytest.mark.parametrize("runner", RUNNERS, ids=lambda runner: runner.name)
def test_every_help_tells_an_example_that_can_be_typed_and_exit_codes(runner: Runner) -> None:
    if runner.environment is not None and not table.interpreter(runner.environment).exists():
        pytest.skip(f"its environment is not built: {BUILT_BY[runner.environment]}")
    shown = run("-m", "runners", runner.name, "--help", COLUMNS="120")
    assert shown.returncode == 0, shown.stderr
    # A line that ends in a backslash goes on.
    lines = shown.stdout.replace("\\\n", " ").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith(f"python -m runners {runner.name}")]
    assert examples, shown.stdout
    for example in examples:
        assert not re.search(r"\[|\]|\||\.\.\.", example), f"a synopsis, nothing to type: {example}"
        assert shlex.split(example)
    assert "exit codes: " in shown.stdout.lower()


def test_sigterm_ends_a_runner_as_an_interruption_does(tmp_path: Path) -> None:
    module = tmp_path / "sleeper.py"
    module.write_text(
        "import time\ndef main(words):\n    try:\n        print('up', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('put away', flush=True)\n",
        encoding="utf-8",
    )
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from runners import __main__ as entry, table\n"
        "entry.find = lambda word: table.Runner('sleeper', '', 'engine', '', 'sleeper')\n"
        "sys.exit(entry.main(['--here', 'sleeper']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "put away\n", "interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Written at once, or where the buffer is emptied: at the end of the process.
    for words in (["-m", "runners"], ["-m", "runners", "places"], ["-m", "runners", "places", "--help"]):
        for unbuffered in ("", "1"):
            around = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            command = [sys.executable, *words]
            ran = subprocess.run(command, cwd=ROOT, env=around, stdout=writer, stderr=subprocess.PIPE, text=True)
            # argparse swallows an error of writing its help at once.
            code = 0 if unbuffered and words[-1] == "--help" else 141
            assert (ran.returncode, ran.stderr) == (code, ""), words
    os.close(writer)


def test_a_dotted_call_says_how_it_is_done() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "runners.analyze_oid", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "python -m runners analyze_oid" in run.stderr
