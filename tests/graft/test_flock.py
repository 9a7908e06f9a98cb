"""Two commands on one checkout: the second fails at once, and a lock never outlives its process."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.flock import held

REPOSITORY = Path(__file__).parents[2]
CHILD = """
import sys, time
from pathlib import Path
from graft.flock import held
with held(Path(sys.argv[1]), "apply.py apply up"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(gitdir: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(gitdir)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def test_a_second_process_is_told_who_holds_it_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    child = holder(tmp_path)
    try:
        start = time.perf_counter()
        with pytest.raises(GraftError) as caught, held(tmp_path):
            pytest.fail("two at once")
        assert time.perf_counter() - start < 1
        assert f"process {child.pid} (apply.py apply up)" in caught.value.what
        assert caught.value.where == str(tmp_path)
        assert caught.value.remedy
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.communicate()
    with held(tmp_path):
        pass


def test_within_one_process_too_and_free_after_an_error(tmp_path: Path) -> None:
    with held(tmp_path, "first"):
        with pytest.raises(GraftError, match=rf"process {os.getpid()} \(first\)"), held(tmp_path):
            pytest.fail("two at once")
        with pytest.raises(GraftError, match="first"), held(tmp_path):
            pytest.fail("the refused one must not have freed it")
    with pytest.raises(RuntimeError, match="inside"), held(tmp_path):
        raise RuntimeError("inside")
    with held(tmp_path, "after"):
        pass


def test_a_holder_without_a_name_yet(tmp_path: Path) -> None:
    (tmp_path / "graft").mkdir()
    with (tmp_path / "graft/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(GraftError, match="not yet said its name"), held(tmp_path):
            pytest.fail("two at once")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(GraftError, match="no file locks") as caught, held(tmp_path):
        pytest.fail("went on without a lock")
    assert caught.value.where == str(tmp_path / "graft/lock")
    assert "local disk" in caught.value.remedy


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "graft").write_text("a file in the way")
    with pytest.raises(GraftError, match="cannot be opened"), held(tmp_path):
        pytest.fail("went on without a lock")
