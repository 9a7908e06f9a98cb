"""Commands as processes: what they start ends with them, in whatever session and whoever their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners import orphans, processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")

# A worker as torchrun starts it, twice forked: in a session of its own, its parent gone. {how} it becomes what sleeps.
WORKER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open("worker", "w").write(str(os.getpid()))
    {how}
while not os.path.exists("worker") or not open("worker").read():
    time.sleep(0.01)
{then}
"""
SLEEPS = "time.sleep(300); os._exit(0)"
# Its environment says nothing of where it came from.
NAMELESS = "os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(300)'], {})"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300); os._exit(0)"


def worker(how: str, then: str) -> list[str]:
    return [sys.executable, "-c", WORKER.format(how=how, then=then)]


def soon(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def number(folder: Path) -> int:
    """The worker's process id, once it has written it."""
    place = folder / "worker"
    soon(lambda: place.exists() and place.read_text())
    return int(place.read_text())


def runs(pid: int) -> bool:
    found = orphans.process(pid)
    return found is not None and found.runs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(processes, "GRACE", 0.3)
    yield tmp_path
    if (tmp_path / "worker").exists() and runs(pid := int((tmp_path / "worker").read_text())):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "then", "code"),
    [
        (SLEEPS, "sys.exit(0)", 0),
        (SLEEPS, "os.kill(os.getpid(), 9)", -9),
        (NAMELESS, "time.sleep(0.5); sys.exit(3)", 3),
    ],
    ids=["launcher ends well", "launcher is killed", "worker without an environment"],
)
def test_no_worker_outlives_its_launcher(folder: Path, how: str, then: str, code: int) -> None:
    assert processes.call(worker(how, then), {}, folder, folder / "log") == code
    assert not runs(number(folder))
    assert not processes._running


def test_a_worker_that_ignores_sigterm_is_killed(folder: Path) -> None:
    with (folder / "log").open("ab") as out:
        process = processes.start(worker(DEAF, "sys.exit(1)"), {}, folder, out)
        assert process.wait() == 1
        assert runs(number(folder))
        began = time.monotonic()
        assert processes.end_tree(process, patience=0.5) == 0
    assert 0.4 < time.monotonic() - began < 5
    assert not runs(number(folder))


def test_an_interruption_ends_launcher_and_worker(folder: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.call(worker(SLEEPS, "time.sleep(300)"), {}, folder, folder / "log", watch=stop)
    # The first look is after a second: by then the worker is there.
    assert not runs(number(folder))


def test_others_of_this_process_are_left_alone(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    try:
        with (other / "log").open("ab") as out:
            second = processes.start(worker(SLEEPS, "time.sleep(300)"), {}, other, out)
            theirs = number(other)
            assert processes.call(worker(SLEEPS, "sys.exit(0)"), {}, folder, folder / "log") == 0
            assert not runs(number(folder))
            assert second.poll() is None
            assert runs(theirs)
            assert helper.poll() is None
            assert processes.end_tree(second) == 0
        assert not runs(theirs)
        assert second.returncode == -signal.SIGTERM
    finally:
        helper.kill()
        helper.wait()


def test_what_a_good_end_leaves_may_finish_its_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 10.0)
    how = "time.sleep(0.5); open('written', 'w').write('all'); os._exit(0)"
    began = time.monotonic()
    assert processes.call(worker(how, "sys.exit(0)"), {}, folder, folder / "log") == 0
    assert time.monotonic() - began < 8
    assert (folder / "written").read_text() == "all"


def test_a_process_that_start_did_not_make_is_ended_with_its_descendants(folder: Path) -> None:
    code = "import subprocess,sys;subprocess.Popen([sys.executable,'-c','import time;time.sleep(300)'],"
    code += "start_new_session=True);open('begun','w');sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, start_new_session=True, stdin=subprocess.PIPE)
    soon((folder / "begun").exists)
    grandchild = next(iter(orphans.children(process.pid)))
    assert processes.end_tree(process) == 0
    assert process.returncode == -signal.SIGTERM
    assert not runs(grandchild)
    assert process.stdin is not None
    process.stdin.close()


def test_a_running_command_is_looked_at_and_its_code_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK", 0.05)
    seen: list[str] = []
    code = "import sys,time; print('half', flush=True); time.sleep(1); print('whole'); sys.exit(7)"
    log = tmp_path / "log"
    got = processes.call([sys.executable, "-c", code], {}, tmp_path, log, watch=lambda: seen.append(log.read_text()))
    assert got == 7
    assert len(seen) > 5
    assert seen[-1] == "half\n"
    assert log.read_text() == "half\nwhole\n"


def test_orphans_come_to_this_process_and_not_to_init(folder: Path) -> None:
    with (folder / "log").open("ab") as out:
        process = processes.start(worker(SLEEPS, "time.sleep(300)"), {}, folder, out)
        found = orphans.process(number(folder))
        assert found is not None
        soon(lambda: (now := orphans.process(found.pid)) is not None and now.parent == os.getpid())
        assert found.session not in (os.getsid(0), process.pid)
        assert processes.end_tree(process) == 0
