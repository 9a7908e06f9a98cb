"""The command line itself: arguments, help, JSON, colours, progress, completion, exit codes, signals."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graft import cli, sources
from graft.errors import Exit
from graft.ui import Screen
from tests.standins.packs import SPEED
from tests.standins.project import Project, everything, table
from tests.standins.upstream import Pin

VERBS = ("apply", "status", "check", "diff", "revert", "adopt", "doctor")


# help and arguments


@pytest.mark.parametrize("verb", [*VERBS, "completion"])
def test_help_of_every_verb(project: Project, verb: str) -> None:
    ran = project.run(verb, "--help")
    assert ran.code == 0
    assert f"apply.py {verb}" in ran.out
    assert ran.err == ""
    if verb != "completion":
        assert "--json" in ran.out
        assert "UPSTREAM" in ran.out
        assert re.search(r"exit\s+codes: 0 done", ran.out)


def test_help_names_every_verb_and_examples(project: Project) -> None:
    for arguments in (["--help"], ["-h"]):
        out = project.ok(*arguments).out
        assert all(re.search(rf"^    {verb}\b", out, re.MULTILINE) for verb in (*VERBS, "completion"))
        assert "python apply.py LLaMA-Factory" in out


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], ["apply"]),
        (["tool"], ["apply", "tool"]),
        (["--offline", "tool"], ["apply", "--offline", "tool"]),
        (["--json", "status", "tool"], ["status", "--json", "tool"]),
        (["status"], ["status"]),
        (["--mirror", "status-of-mirrors", "tool"], ["apply", "--mirror", "status-of-mirrors", "tool"]),
        (["--help"], ["--help"]),
    ],
)
def test_apply_is_the_default_verb(given: list[str], meant: list[str]) -> None:
    assert cli.with_verb(given) == meant


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stauts"], ["'stauts'", "python apply.py status"]),
        (["rever"], ["'rever'", "python apply.py revert"]),
        (["tol"], ["'tol'", "did you mean 'tool'?", "tool, other"]),
        (["status", "otter"], ["'otter'", "did you mean 'other'?"]),
        (["--pack", "sped"], ["'sped'", "did you mean 'speed'?", "notes, speed, tiny"]),
        (["revert", "--pack", "sped"], ["'sped'", "did you mean 'speed'?"]),
        (["diff", "--pack", "sped"], ["'sped'"]),
        (["--pack", "speed", "--pack", "nosuch"], ["'nosuch'", "notes, speed, tiny"]),
        (["other", "--pack", "speed"], ["'speed'", "name one of: tiny"]),
    ],
)
def test_unknown_names_are_refused_with_what_is_near(fetched: Project, arguments: list[str], words: list[str]) -> None:
    before = everything(fetched.root)
    ran = fetched.run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert all(word in ran.err for word in words), ran.err
    assert everything(fetched.root) == before


def test_an_unknown_option_is_refused(project: Project) -> None:
    ran = project.run("status", "--lnk")
    assert ran.code == 2
    assert "--lnk" in ran.err


def test_names_of_upstreams_in_any_case_and_order(fetched: Project) -> None:
    assert list(fetched.ok("status", "OTHER", "Tool", "--json").json["upstreams"]) == ["tool", "other"]


def test_status_of_a_pack_shows_that_one(applied: Project) -> None:
    data = applied.ok("status", "--pack", "speed", "--json").json["upstreams"]
    assert {name: list(report["packs"]) for name, report in data.items()} == {"tool": ["speed"]}


# JSON


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", ["absent", "applied", "edited", "unreachable"])
def test_json_is_one_object_and_nothing_else(request: pytest.FixtureRequest, verb: str, state: str) -> None:
    project: Project = request.getfixturevalue("applied" if state in ("applied", "edited") else "project")
    if state == "unreachable":
        gone = Pin(project.root / "nowhere", "1" * 40, "2" * 40)
        project.write("upstream.lock", "format = 1\n" + table("tool", gone, ["speed", "notes"]))
        project.run()
    if state == "edited":
        project.edit("tool/src/tool/model.py", b"    hurry(model)\n", b"    hurry(None)\n")
    ran = project.run(verb, "--json")
    assert isinstance(ran.json, dict)
    assert ran.out.count("\n") == 1
    assert ran.err == ""
    if verb != "doctor":
        assert ran.json["ok"] is (ran.code == 0)
        assert ran.json["verb"] == verb
        for name, report in ran.json["upstreams"].items():
            always = {"name", "state", "tree_proven", "packs", "wrote", "changed_lines", "errors"}
            assert always <= report.keys()
            assert report["name"] == name
            assert report["state"]


@pytest.mark.parametrize("verb", VERBS)
def test_json_of_bad_input_is_one_object_too(project: Project, verb: str) -> None:
    project.write("upstream.lock", "format = 2\n")
    ran = project.run(verb, "--json")
    assert ran.code == 2
    assert ran.json["ok"] is False
    (error,) = ran.json["errors"]
    assert error["error"]
    assert error["where"]
    assert error["remedy"]
    assert ran.err == ""


def test_json_lists_every_bad_pack(fetched: Project) -> None:
    fetched.write("patches/tool/speed.py", "PACK = (")
    fetched.write("patches/other/tiny.py", "PACK = None\n")
    ran = fetched.run("--json")
    assert ran.code == 2
    assert [error["where"] for error in ran.json["errors"]] == ["patches/tool/speed.py:1", "patches/other/tiny.py"]
    assert fetched.is_pristine()


# exit codes


def test_exit_codes(project: Project) -> None:
    assert [code.value for code in Exit] == [0, 1, 2, 3, 4]
    assert project.run("check").code == 4
    assert project.run("--offline").code == 0
    assert project.run("check").code == 0
    project.write("patches/tool/speed.py", SPEED.replace("hurry(model)", "hurry(model, 1)"))
    assert project.run("check").code == 4
    project.write("patches/tool/speed.py", SPEED.replace('"return model"', '"return modle"'))
    assert project.run("check").code == 4
    assert project.run().code == 1
    project.write("patches/tool/speed.py", "PACK = 1\n")
    assert project.run().code == 2
    assert project.run("check").code == 2


def test_an_upstream_that_is_on_the_network_only_is_unreachable_offline(project: Project) -> None:
    pin = project.pins["tool"]
    changed = table("tool", pin, [], url="https://example.invalid/tool")
    project.write("upstream.lock", "format = 1\n" + changed + table("other", project.pins["other"], ["tiny"]))
    ran = project.run("--offline")
    assert ran.code == 3
    assert "https://example.invalid/tool" in ran.out
    assert "offline" in ran.out
    assert b"tiny" in project.read("other/other/core.py")


def test_lost_edit_wins_over_unreachable(fetched: Project) -> None:
    gone = Pin(fetched.root / "nowhere", "1" * 40, "2" * 40)
    fetched.edit("tool/src/tool/model.py", b"    return model\n", b"    return built\n")
    pins = table("gone", gone, []) + table("tool", fetched.pins["tool"], ["speed", "notes"])
    fetched.write("upstream.lock", "format = 1\n" + pins)
    assert fetched.run().code == 1


def test_an_error_of_the_disk_is_no_traceback(fetched: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(sources, "obtain", full)
    ran = fetched.run()
    assert ran.code == 1
    assert ran.out.count("/some/file: Permission denied") == 2
    assert "Traceback" not in ran.said


# colours and progress


def terminal(command: list[str], cwd: Path, **env: str) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal; its exit code and all it showed."""
    pid, master = pty.fork()
    if pid == 0:  # pragma: no cover - the child
        os.chdir(cwd)
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", **env})
    shown = b""
    while select.select([master], [], [], 30)[0]:
        try:
            read = os.read(master, 65536)
        except OSError:
            break
        if not read:
            break
        shown += read
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.fixture
def repository(applied: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose own apply.py finds the engine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return applied


def test_colours_on_a_terminal_only(repository: Project) -> None:
    command = repository.command("status")
    code, shown = terminal(command, repository.root)
    assert code == 0
    assert "\033[32mapplied\033[0m" in shown
    assert "\033[" not in terminal(command, repository.root, NO_COLOR="1")[1]
    assert "\033[" not in terminal(command, repository.root, TERM="dumb")[1]
    piped = subprocess.run(command, cwd=repository.root, capture_output=True, check=True, text=True)
    assert "tool  applied" in piped.stdout
    assert "\033[" not in piped.stdout + piped.stderr


def test_diff_on_a_terminal_is_coloured_and_otherwise_the_same(repository: Project) -> None:
    _, shown = terminal(repository.command("diff", "other"), repository.root)
    assert "\033[32m+    print('tiny')\033[0m" in shown
    plain = re.sub(r"\033\[\d*m", "", shown).replace("\r\n", "\n")
    assert plain == repository.ok("diff", "other").out


def test_words_that_the_terminal_cannot_show_are_escaped(repository: Project) -> None:
    repository.write("overlays/tool/src/tool/speed/hooks.py", "# \u4f60\u597d\n")
    repository.ok()
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(repository.command("diff"), cwd=repository.root, capture_output=True, env=env, check=False)
    assert ran.returncode == 0, ran.stderr
    assert rb"+# \u4f60\u597d" in ran.stdout


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError(25, "Inappropriate ioctl for device")


def test_progress_is_shown_only_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    screen = Screen(out=io.StringIO(), err=log)
    screen.progress("fetching tool")
    assert log.getvalue() == ""
    screen.settle()
    time.sleep(1.1)
    assert log.getvalue() == ""
    screen = Screen(out=io.StringIO(), err=log)
    screen.progress("fetching tool")
    time.sleep(1.2)
    assert log.getvalue() == "fetching tool\n"
    screen.progress("writing")
    screen.progress("writing")
    assert log.getvalue() == "fetching tool\nwriting\n"
    screen.settle()


def test_a_slow_verb_shows_one_line_and_takes_it_away(repository: Project) -> None:
    slow = repository.write(
        "slow.py",
        "import sys, time\nfrom pathlib import Path\nfrom graft import cli, views\nreal = views.status\n"
        "def status(*given):\n    time.sleep(1.3)\n    return real(*given)\n"
        "cli._VERBS['status'] = (status, 'x')\nsys.exit(cli.main(Path(__file__).parent, sys.argv[1:]))\n",
    )
    code, shown = terminal([sys.executable, str(slow), "status", "tool"], repository.root)
    assert code == 0
    assert "\rtool: status" in shown
    last = shown[shown.index("\rtool: status") + 1 :]
    assert last.startswith("tool: status\r" + " " * len("tool: status") + "\r")
    piped = subprocess.run(
        [sys.executable, str(slow), "status", "tool", "--json"], cwd=repository.root, capture_output=True, check=True
    )
    assert piped.stderr == b"tool: status\n"
    assert json.loads(piped.stdout)["ok"] is True


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_verbs_options_and_upstreams(project: Project, shell: str) -> None:
    script = project.ok("completion", shell).out
    for word in (*VERBS, "mirror", "tool", "other"):
        assert word in script
    if shell != "tcsh" and shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_bash_completes_upstreams(project: Project) -> None:
    script = project.ok("completion", "bash").out
    ask = (
        "COMP_WORDS=(apply.py status to); COMP_CWORD=2; COMP_LINE='apply.py status to'; COMP_POINT=${#COMP_LINE}\n"
        "$(complete -p apply.py | sed 's/.*-F \\([^ ]*\\).*/\\1/') apply.py to status\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash", "-c", script + "\n" + ask], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["tool"]


# signals and pipes


def test_keyboard_interrupt_is_one_line(fetched: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._VERBS, "apply", (interrupted, "x"))
    ran = fetched.run()
    assert ran.code == 130
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err


def test_a_real_interrupt_ends_a_process_cleanly(repository: Project) -> None:
    waiting = repository.write(
        "waiting.py",
        "import sys, time\nfrom pathlib import Path\nfrom graft import cli\n"
        "def status(*given):\n    print('at work', flush=True)\n    time.sleep(60)\n"
        "cli._VERBS['status'] = (status, 'x')\nsys.exit(cli.main(Path(__file__).parent, sys.argv[1:]))\n",
    )
    process = subprocess.Popen(
        [sys.executable, str(waiting), "status"], cwd=repository.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"at work\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"interrupted" in err


@pytest.mark.parametrize("verb", ["status", "diff"])
def test_a_reader_that_goes_away_is_no_error(repository: Project, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is short is then written at the very end only
    repository.write("overlays/tool/src/tool/speed/long.txt", "line\n" * 100_000)
    repository.ok()
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(repository.command(verb), cwd=repository.root, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = process.communicate(timeout=30)
    assert err == b""
    assert process.returncode == 0


def test_apply_py_runs_as_a_program(repository: Project) -> None:
    """The real entry, found by its own path from another folder."""
    repository.ok("revert")
    repository.command()
    done = subprocess.run(
        [sys.executable, str(repository.root / "apply.py"), "--json"], cwd="/", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert json.loads(done.stdout)["upstreams"]["tool"]["state"] == "applied"
