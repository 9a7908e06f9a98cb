"""Two commands at once, and commands that were killed: the next verb, whichever it is, finishes or undoes the set."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from graft import flock
from graft.fsops import FileSystem
from tests.standins.packs import AFTER_BOTH
from tests.standins.project import HOOKS, SOURCE, Project, contents, everything


class Killed(BaseException):
    """The process died here."""


def test_second_apply_at_the_same_time_is_refused_naming_the_first(applied: Project) -> None:
    before = everything(applied.root)
    with flock.held(applied.gitdir("tool"), command="apply.py tool --link"):
        for verb in ("apply", "check", "revert", "adopt"):
            ran = applied.run(verb, "tool")
            assert ran.code == (4 if verb == "check" else 1)
            assert f"process {os.getpid()} (apply.py tool --link)" in ran.out
    assert everything(applied.root) == before
    applied.ok()


def killed(project: Project, monkeypatch: pytest.MonkeyPatch, renames: int, *arguments: str) -> None:
    """A command that dies at a rename: the first is the journal's, those after it put files in place."""
    real = FileSystem.replace
    count = itertools.count()

    def replace(self: FileSystem, source: Path, target: Path) -> None:
        if next(count) == renames:
            raise Killed
        real(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(FileSystem, "replace", replace)
        with pytest.raises(Killed):
            project.run(*arguments)


@pytest.mark.parametrize("verb", ["apply", "status", "check", "diff", "revert", "adopt"])
def test_next_verb_finishes_what_was_killed(fetched: Project, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    killed(fetched, monkeypatch, 4, "apply", "tool")
    on_disk = {path for path, content in AFTER_BOTH.items() if _is(fetched, path, content)}
    assert 0 < len(on_disk) < len(AFTER_BOTH)
    ran = fetched.ok(verb, "tool")
    assert "an interrupted command was finished" in ran.said
    if verb == "revert":
        assert fetched.is_pristine()
    else:
        assert contents(fetched, AFTER_BOTH) == AFTER_BOTH
        assert fetched.ok("status", "tool", "--json").json["upstreams"]["tool"]["state"] == "applied"
    assert "interrupted" not in fetched.ok("status").said


def _is(project: Project, path: str, content: bytes) -> bool:
    file = project.at("tool") / path
    return file.is_file() and file.read_bytes() == content


def test_killed_before_the_journal_is_undone(fetched: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(fetched, monkeypatch, 0, "apply", "tool")
    assert fetched.is_pristine()
    assert "interrupted" in fetched.ok("status", "tool").out
    fetched.ok("tool")
    assert contents(fetched, AFTER_BOTH) == AFTER_BOTH


def test_killed_adopt_is_finished_by_the_next_verb(applied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = applied.edit(HOOKS, b"True", b"'mine'")
    applied.at("tool/src/tool/speed/new.py").write_bytes(b"NEW = 1\n")
    killed(applied, monkeypatch, 2, "adopt", "tool")
    assert "an interrupted command was finished" in applied.ok("status", "tool").out
    assert (applied.root / SOURCE).read_bytes() == mine
    assert (applied.root / "overlays/tool/src/tool/speed/new.py").read_bytes() == b"NEW = 1\n"


def test_a_status_that_finds_nothing_unfinished_writes_nothing(applied: Project) -> None:
    lock = applied.gitdir("tool") / "graft" / "lock"
    before = lock.stat().st_mtime_ns, everything(applied.root)
    applied.ok("status")
    applied.ok("diff")
    assert (lock.stat().st_mtime_ns, everything(applied.root)) == before
