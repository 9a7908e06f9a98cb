"""Overlay files in a checkout: copied, linked, in the way, edited, adopted."""

from __future__ import annotations

import os
import re
import stat

import pytest

from tests.standins.packs import FILES, SPEED
from tests.standins.project import HOOKS, SOURCE, Project, everything
from tests.standins.upstream import sh


def test_links_and_back(applied: Project) -> None:
    copies = applied.tree()
    applied.ok("--link")
    link = applied.at(HOOKS)
    assert link.is_symlink()
    assert link.resolve() == (applied.root / SOURCE).resolve()
    assert not os.path.isabs(os.readlink(link))
    assert applied.ok("status", "tool", "--json").json["upstreams"]["tool"]["state"] == "applied"
    applied.ok("check", "--link")
    applied.write("patches/tool/speed.py", SPEED.replace("speed: bool = False", "speed: bool = True"))
    assert applied.ok("tool", "--link", "--json").json["upstreams"]["tool"]["wrote"] == ["src/tool/config.py"]
    applied.write("patches/tool/speed.py", SPEED)
    link.write_bytes(link.read_bytes() + b"# through the link\n")
    assert (applied.root / SOURCE).read_bytes().endswith(b"# through the link\n")
    applied.write(SOURCE, FILES[SOURCE])
    applied.ok()
    assert applied.at(HOOKS).is_symlink()  # without a word it stays what it is
    applied.ok("--copy")
    assert not applied.at(HOOKS).is_symlink()
    assert applied.tree() == copies
    applied.ok("--link")
    applied.ok("revert")
    assert applied.is_pristine()


def test_link_refuses_to_hide_an_edited_copy(applied: Project) -> None:
    mine = applied.edit(HOOKS, b"True", b"'mine'")
    ran = applied.run("tool", "--link")
    assert ran.code == 1
    assert "adopt" in ran.out
    assert applied.read(HOOKS) == mine


@pytest.mark.parametrize("arguments", [["apply"], ["apply", "--link"], ["adopt"], ["revert"]])
def test_a_link_that_an_editor_made_a_file_is_not_overwritten(applied: Project, arguments: list[str]) -> None:
    applied.ok("--link")
    applied.at(HOOKS).unlink()
    applied.at(HOOKS).write_bytes(b"mine\n")
    ran = applied.run(*arguments, "tool")
    assert ran.code == 1
    assert "src/tool/speed/hooks.py" in ran.out
    assert applied.read(HOOKS) == b"mine\n"


def test_overlay_over_a_file_of_the_user(fetched: Project) -> None:
    fetched.at("tool/src/tool/notes.py").write_bytes(b"mine\n")
    before = everything(fetched.root)
    ran = fetched.run("tool")
    assert ran.code == 1
    assert "src/tool/notes.py" in ran.out
    assert "overlays/tool/src/tool/notes.py" in ran.out
    assert everything(fetched.root) == before


def test_overlay_over_a_folder_of_the_user(fetched: Project) -> None:
    fetched.at("tool/src/tool/notes.py").mkdir()
    ran = fetched.run("tool")
    assert ran.code == 1
    assert re.search(r"src/tool/notes.py: a folder is where .*\n +-> move it away", ran.out)


def test_overlay_removed_at_its_source_leaves(applied: Project) -> None:
    applied.write("overlays/tool/src/tool/speed/more.py", "MORE = 1\n")
    applied.ok()
    assert applied.read("tool/src/tool/speed/more.py") == b"MORE = 1\n"
    (applied.root / "overlays/tool/src/tool/speed/more.py").unlink()
    assert applied.run("check").code == 4
    applied.ok()
    assert not applied.at("tool/src/tool/speed/more.py").exists()


def test_overlay_removed_at_its_source_stays_where_the_user_edited_it(applied: Project) -> None:
    applied.write("overlays/tool/src/tool/speed/more.py", "MORE = 1\n")
    applied.ok()
    applied.at("tool/src/tool/speed/more.py").write_bytes(b"MORE = 'mine'\n")
    (applied.root / "overlays/tool/src/tool/speed/more.py").unlink()
    ran = applied.run("tool")
    assert ran.code == 1
    assert "src/tool/speed/more.py" in ran.out
    assert applied.read("tool/src/tool/speed/more.py") == b"MORE = 'mine'\n"
    applied.ok("adopt")
    assert (applied.root / "overlays/tool/src/tool/speed/more.py").read_bytes() == b"MORE = 'mine'\n"
    applied.ok()
    assert applied.read("tool/src/tool/speed/more.py") == b"MORE = 'mine'\n"


def test_adopt_brings_an_edited_overlay_back(applied: Project) -> None:
    mine = applied.edit(HOOKS, b"True", b"'mine'")
    report = applied.ok("adopt", "--json").json["upstreams"]["tool"]
    assert report["adopted"] == [SOURCE]
    assert (applied.root / SOURCE).read_bytes() == mine
    assert applied.ok("status", "tool", "--json").json["upstreams"]["tool"].get("edited_by_user") is None
    applied.ok("revert")
    assert applied.is_pristine()


def test_adopt_merges_with_a_source_that_moved_on(applied: Project) -> None:
    applied.edit(HOOKS, b"    return model\n", b"    return model  # mine\n")
    applied.write(SOURCE, "LIMIT = 1\n\n\n" + FILES[SOURCE])
    applied.ok("adopt")
    both = b"LIMIT = 1\n\n\ndef hurry(model):\n    model.quick = True\n    return model  # mine\n"
    assert (applied.root / SOURCE).read_bytes() == both
    assert applied.read(HOOKS) == both


def test_adopt_takes_new_files_of_our_folders_only(applied: Project) -> None:
    applied.at("tool/src/tool/speed/new.py").write_bytes(b"NEW = 1\n")
    applied.at("tool/src/tool/speed/deep").mkdir()
    applied.at("tool/src/tool/speed/deep/er.py").write_bytes(b"DEEP = 1\n")
    applied.at("tool/src/tool/speed/run.log").write_bytes(b"ignored by the upstream\n")
    applied.at("tool/src/tool/beside.py").write_bytes(b"MINE = 1\n")
    report = applied.ok("adopt", "--json").json["upstreams"]["tool"]
    assert report["adopted"] == [f"overlays/tool/src/tool/speed/{name}" for name in ("deep/er.py", "new.py")]
    assert (applied.root / "overlays/tool/src/tool/speed/deep/er.py").read_bytes() == b"DEEP = 1\n"
    assert not (applied.root / "overlays/tool/src/tool/beside.py").exists()
    applied.ok("revert")
    assert sh("status", "--porcelain", cwd=applied.at("tool")) == "?? src/tool/beside.py"
    assert applied.read("tool/src/tool/beside.py") == b"MINE = 1\n"


def test_adopt_keeps_what_can_be_run_executable(applied: Project) -> None:
    new = applied.at("tool/src/tool/speed/run.sh")
    new.write_bytes(b"#!/bin/sh\n")
    new.chmod(0o755)
    applied.edit(HOOKS, b"True", b"'mine'")
    applied.at(HOOKS).chmod(0o755)
    (applied.root / SOURCE).chmod(0o600)
    applied.ok("adopt")
    assert stat.S_IMODE((applied.root / "overlays/tool/src/tool/speed/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((applied.root / SOURCE).stat().st_mode) == 0o755
    applied.ok()
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(applied.at(HOOKS).stat().st_mode) == 0o755


def test_adopt_keeps_the_other_permissions_of_a_source(applied: Project) -> None:
    (applied.root / SOURCE).chmod(0o600)
    applied.edit(HOOKS, b"True", b"'mine'")
    applied.ok("adopt")
    assert stat.S_IMODE((applied.root / SOURCE).stat().st_mode) == 0o600


def test_adopt_with_nothing_to_adopt_writes_nothing(applied: Project, writes: list[str]) -> None:
    before = everything(applied.root)
    assert "nothing" in applied.ok("adopt").out
    assert writes == []
    assert everything(applied.root) == before
