"""The scheduled check: the newest commit of each upstream against the packs."""

from __future__ import annotations

from pathlib import Path

from tests.graft.test_upgrade import MODEL, NEW_MODEL, moving  # noqa: F401
from tests.standins.project import Project
from tests.standins.upstream import commit_files


def test_all_hold(moving: Project, tmp_path: Path) -> None:  # noqa: F811
    summary = tmp_path / "summary.md"
    ran = moving.run("newest", "--to", "v2", "tool", "--markdown", str(summary))
    assert ran.code == 0, ran.said
    text = summary.read_text()
    assert text.startswith("## tool at ")
    assert ": all 6 edits hold\n" in text
    assert "- moved from `src/tool/train.py`" in text
    assert "upstream changed 1 definitions" in text


def test_one_is_lost(moving: Project) -> None:  # noqa: F811
    ran = moving.run("newest")
    assert ran.code == 4
    assert "1 of 6 edits do not hold" in ran.out
    assert "- anchor `return model`, in `src/tool/model.py` `load`" in ran.out
    assert "line 11 `return finish(model)`" in ran.out
    assert "## other at " in ran.out
    assert not moving.run("newest", "--json").json["ok"]


def test_an_upstream_that_cannot_be_asked_does_not_hide_the_others(moving: Project) -> None:  # noqa: F811
    commit_files(moving.pins["tool"].place, {MODEL: NEW_MODEL})
    ran = moving.run("newest", "--to", "v2")
    assert ran.code == 3
    assert "## other: could not be tried" in ran.out
    assert "## tool at " in ran.out
