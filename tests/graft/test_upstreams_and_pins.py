"""Packs that leave the lock, pins that move, several upstreams of which some fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.standins.packs import AFTER_BOTH
from tests.standins.project import HOOKS, MODEL, Project, contents, everything, table
from tests.standins.upstream import TOOL, Pin, commit_files, sh


def test_retired_pack_leaves(applied: Project) -> None:
    applied.lock(tool=["speed"], other=["tiny"])
    status = applied.ok("status", "tool", "--json").json["upstreams"]["tool"]
    assert status["packs"]["notes"]["state"] == "retired"
    (applied.root / "patches/tool/notes.py").unlink()
    applied.ok()
    assert not applied.at("tool/src/tool/notes.py").exists()
    assert b"self.note" not in applied.read(MODEL)
    assert b"hurry(model)" in applied.read(MODEL)


@pytest.mark.parametrize("arguments", [["apply", "--pack", "speed"], ["revert", "--pack", "notes"], ["adopt"]])
def test_retired_pack_whose_file_is_gone_stops_no_verb(applied: Project, arguments: list[str]) -> None:
    applied.lock(tool=["speed"], other=["tiny"])
    (applied.root / "patches/tool/notes.py").unlink()
    applied.edit(HOOKS, b"True", b"'mine'")
    ran = applied.ok(*arguments)
    assert b"self.note" not in applied.read(MODEL)
    assert "notes" in ran.out
    assert b"hurry(model)" in applied.read(MODEL)


def test_head_elsewhere_is_refused_and_left_alone(applied: Project) -> None:
    sh("commit", "-qam", "mine", cwd=applied.at("tool"))
    head = sh("rev-parse", "HEAD", cwd=applied.at("tool"))
    before = everything(applied.root)
    for verb in ("apply", "status", "check", "diff", "revert", "adopt"):
        ran = applied.run(verb, "tool")
        assert ran.code == (4 if verb == "check" else 1)
        assert head in ran.said
        assert applied.pins["tool"].commit in ran.said
    assert everything(applied.root) == before


def newer(project: Project, place: Path, old: bytes, new: bytes) -> Pin:
    """A later commit of tool, in which its model has other bytes."""
    pin = project.pins["tool"]
    sh("clone", "-q", str(pin.place), str(place), cwd=place.parent)
    commit = commit_files(place, {"src/tool/model.py": TOOL["src/tool/model.py"].replace(old, new)})
    return Pin(place, commit, sh("rev-parse", "HEAD^{tree}", cwd=place))


def test_the_way_to_a_new_pin(applied: Project, tmp_path: Path) -> None:
    pin = newer(applied, tmp_path / "newer", b"# compiled last", b"# built")
    applied.write("upstream.lock", "format = 1\n" + table("tool", pin, ["speed", "notes"]))
    for verb in ("apply", "check", "status"):
        ran = applied.run(verb, "tool")
        assert ran.code == (4 if verb == "check" else 1)
        assert "python apply.py upgrade tool" in ran.out
    applied.ok("revert", "tool")
    assert applied.is_pristine()
    sh("fetch", "-q", str(pin.place), pin.commit, cwd=applied.at("tool"))
    sh("checkout", "-q", "--detach", pin.commit, cwd=applied.at("tool"))
    applied.ok("tool")
    assert b"# built" in applied.read(MODEL)
    assert b"hurry(model)" in applied.read(MODEL)


def test_graft_carried_to_a_new_pin_by_a_forced_checkout(applied: Project, tmp_path: Path) -> None:
    """``git checkout -f`` drops the edits and keeps the overlay files; nothing of the old pin comes back.

    The new pin has a line of its own where graft's was, which against the old pin is a collision.
    """
    theirs = b"    hurry(model, fast=True)\n    return model\n"
    pin = newer(applied, tmp_path / "newer", b"    return model\n", theirs)
    applied.write("upstream.lock", "format = 1\n" + table("tool", pin, ["speed", "notes"]))
    sh("fetch", "-q", str(pin.place), pin.commit, cwd=applied.at("tool"))
    sh("checkout", "-qf", "--detach", pin.commit, cwd=applied.at("tool"))
    applied.ok("tool")
    ours = b"    hurry(model, fast=True)\n    hurry(model)\n    return model\n"
    assert applied.read(MODEL) == AFTER_BOTH["src/tool/model.py"].replace(b"    hurry(model)\n    return model\n", ours)
    applied.ok("revert", "tool")
    assert applied.tree() == pin.tree


def test_one_upstream_failing_does_not_stop_the_others(fetched: Project) -> None:
    fetched.edit(MODEL, b"    return model\n", b"    return built\n")
    ran = fetched.run()
    assert ran.code == 1
    assert b"print('tiny')" in fetched.read("other/other/core.py")
    assert b"hurry" not in fetched.read(MODEL)
    assert not fetched.at(HOOKS).exists()


def test_all_failures_in_one_run(fetched: Project) -> None:
    fetched.edit(MODEL, b"    return model\n", b"    return built\n")
    fetched.edit("tool/src/tool/train.py", b"loss = model.forward(step)", b"loss = model(step)")
    fetched.edit("other/other/core.py", b"return name", b"return str(name)")
    data = fetched.run("--json").json
    errors = [error for report in data["upstreams"].values() for error in report["errors"]]
    assert len(errors) == 3
    assert {error["where"].split()[0] for error in errors} == {
        "src/tool/model.py",
        "src/tool/train.py",
        "other/core.py",
    }
    for error in errors:
        assert re.search(r"patches/(tool|other)/\w+\.py:\d+", error["remedy"])
    assert "line 10" in errors[0]["error"]
    assert "return built" in errors[0]["error"]
    assert data["ok"] is False


def test_unreachable_upstream_is_named_now_and_later(project: Project) -> None:
    gone = Pin(project.root / "nowhere", "1" * 40, "2" * 40)
    project.write(
        "upstream.lock",
        "format = 1\n" + table("gone", gone, []) + table("tool", project.pins["tool"], ["speed", "notes"]),
    )
    ran = project.run()
    assert ran.code == 3
    assert str(gone.place) in ran.out
    assert "--mirror" in ran.out
    assert contents(project, AFTER_BOTH) == AFTER_BOTH
    assert not project.at("gone").exists()
    status = project.ok("status", "--json").json["upstreams"]
    assert status["gone"]["state"] == "unreachable"
    assert str(gone.place) in status["gone"]["tried"][0]
    assert "\n" not in status["gone"]["tried"][0]
    assert status["tool"]["state"] == "applied"
    there = table("gone", project.pins["other"], [])
    project.write("upstream.lock", "format = 1\n" + there)
    assert project.ok("status", "--json").json["upstreams"]["gone"]["state"] == "absent"
    project.ok()
    assert project.ok("status", "--json").json["upstreams"]["gone"]["state"] == "unapplied"
