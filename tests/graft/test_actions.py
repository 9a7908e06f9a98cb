"""apply and revert as a user runs them: on the stand-in project, from the arguments to the bytes."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.standins.packs import AFTER_BOTH, FILES, SPEED
from tests.standins.project import HOOKS, MODEL, SOURCE, Project, contents, everything, stamps
from tests.standins.upstream import TOOL, sh


def test_apply_fetches_and_writes_what_the_packs_say(project: Project) -> None:
    ran = project.ok()
    assert contents(project, AFTER_BOTH) == AFTER_BOTH
    untouched = TOOL.keys() - AFTER_BOTH.keys()
    assert contents(project, {path: TOOL[path] for path in untouched}) == {path: TOOL[path] for path in untouched}
    assert b"print('tiny')" in project.read("other/other/core.py")
    changed = sh("status", "--porcelain", "--untracked-files=all", cwd=project.at("tool")).splitlines()
    assert {line.split()[-1] for line in changed} == AFTER_BOTH.keys()
    assert sh("rev-parse", "HEAD", cwd=project.at("tool")) == project.pins["tool"].commit
    assert f"tree {project.pins['tool'].tree[:10]} proven" in ran.out


def test_changed_lines_are_those_of_git(applied: Project) -> None:
    numstat = sh("diff", "--numstat", cwd=applied.at("tool")).splitlines()
    expected = sum(int(number) for line in numstat for number in line.split()[:2])
    assert applied.ok("status", "tool", "--json").json["changed_lines"] == expected > 0


def test_second_apply_writes_nothing(applied: Project, writes: list[str]) -> None:
    before = stamps(applied.at("tool")), stamps(applied.gitdir("tool") / "graft" / "blobs")
    report = applied.ok("--json").json["upstreams"]["tool"]
    assert (stamps(applied.at("tool")), stamps(applied.gitdir("tool") / "graft" / "blobs")) == before
    assert writes == []
    assert report["wrote"] == []


def test_spy_sees_an_apply_that_has_something_to_write(fetched: Project, writes: list[str]) -> None:
    fetched.ok()
    assert writes.count("replace") > len(AFTER_BOTH)


def test_apply_again_after_a_pack_changed(applied: Project) -> None:
    applied.write("patches/tool/speed.py", SPEED.replace("speed: bool = False", "speed: bool = True"))
    assert applied.ok("status", "tool", "--json").json["upstreams"]["tool"]["packs"]["speed"]["state"] == "changed"
    assert applied.run("check").code == 4
    report = applied.ok("tool", "--json").json["upstreams"]["tool"]
    assert report["wrote"] == ["src/tool/config.py"]
    assert applied.read("tool/src/tool/config.py").count(b"    speed: bool = True\r\n") == 1
    assert b"False" not in applied.read("tool/src/tool/config.py")
    applied.ok("revert")
    assert applied.is_pristine()


def test_apply_again_after_an_overlay_changed(applied: Project) -> None:
    applied.write(SOURCE, "def hurry(model):\n    return None\n")
    assert applied.ok("status", "tool", "--json").json["upstreams"]["tool"]["packs"]["speed"]["state"] != "applied"
    report = applied.ok("--json").json["upstreams"]["tool"]
    assert report["wrote"] == ["src/tool/speed/hooks.py"]
    assert applied.read(HOOKS) == b"def hurry(model):\n    return None\n"
    assert applied.ok("status", "tool", "--json").json["upstreams"]["tool"]["state"] == "applied"


def test_an_overlay_made_executable_becomes_so_in_the_checkout(applied: Project) -> None:
    (applied.root / SOURCE).chmod(0o755)
    applied.ok()
    assert applied.at(HOOKS).stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "steps",
    [
        [["--pack", "speed"], ["--pack", "notes"]],
        [["--pack", "notes"], ["--pack", "speed"]],
        [["--pack", "notes", "--pack", "speed"]],
        [["--pack", "speed"], []],
        [[], ["revert", "--pack", "speed"], []],
        [[], ["revert", "--pack", "notes"], ["--pack", "notes"]],
        [["--pack", "speed"], ["revert"], ["--pack", "notes"], []],
    ],
)
def test_packs_in_every_order_give_the_same_bytes(fetched: Project, steps: list[list[str]]) -> None:
    for step in steps:
        fetched.ok(*step)
    assert contents(fetched, AFTER_BOTH) == AFTER_BOTH
    fetched.ok("revert")
    assert fetched.is_pristine()


def test_one_pack_alone_leaves_nothing_of_the_other(fetched: Project) -> None:
    fetched.ok("--pack", "speed")
    alone = fetched.tree()
    fetched.ok()
    fetched.ok("revert", "--pack", "notes")
    assert fetched.tree() == alone
    assert b"self.note" not in fetched.read(MODEL)
    assert not fetched.at("tool/src/tool/notes.py").exists()


def test_revert_restores_every_byte(applied: Project) -> None:
    assert not applied.is_pristine()
    applied.ok("revert")
    assert applied.is_pristine()
    assert applied.is_pristine("other")
    assert contents(applied, TOOL) == TOOL


def test_revert_twice_and_before_apply_is_no_error(fetched: Project, writes: list[str]) -> None:
    fetched.ok("revert")
    assert writes == []
    assert fetched.is_pristine()


def test_revert_takes_byte_code_of_its_modules_along(applied: Project) -> None:
    subprocess.run(
        ["python3", "-c", "import src.tool.speed.hooks"],
        cwd=applied.at("tool"),
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert list(applied.at("tool/src/tool/speed").glob("__pycache__/*.pyc"))
    applied.ok("revert")
    assert not applied.at("tool/src/tool/speed").exists()


def test_revert_works_where_the_packs_do_not_load(applied: Project) -> None:
    applied.write("patches/tool/speed.py", "PACK = (")
    applied.ok("revert", "tool")
    assert applied.is_pristine()


def test_revert_of_a_pack_names_one_upstream_only(applied: Project) -> None:
    tiny = applied.read("other/other/core.py")
    report = applied.ok("revert", "--pack", "speed", "--json").json
    assert list(report["upstreams"]) == ["tool"]
    assert applied.read("other/other/core.py") == tiny


def test_edits_made_before_apply_survive_all_of_it(fetched: Project) -> None:
    mine = fetched.edit(MODEL, b"    return value / 2\n", b"    return value / 2  # mine\n")
    crlf = fetched.edit("tool/src/tool/config.py", b"rate: float = 0.1", b"rate: float = 0.5")
    fetched.at("tool/notes.txt").write_bytes(b"mine\r\n")
    fetched.ok()
    assert fetched.read(MODEL).count(b"# mine") == 1
    assert b"hurry(model)" in fetched.read(MODEL)
    fetched.ok("revert")
    assert fetched.read(MODEL) == mine
    assert fetched.read("tool/src/tool/config.py") == crlf
    assert fetched.read("tool/notes.txt") == b"mine\r\n"
    changed = sh("status", "--porcelain", cwd=fetched.at("tool")).splitlines()
    assert sorted(line.split()[-1] for line in changed) == ["notes.txt", "src/tool/config.py", "src/tool/model.py"]


def test_edits_made_after_apply_survive_apply_and_revert(applied: Project) -> None:
    applied.edit(MODEL, b"    return value / 2\n", b"    # mine\n    return value / 2\n")
    applied.edit("tool/src/tool/data.py", b"names = []", b"names = list()")
    status = applied.ok("status", "tool", "--json").json["upstreams"]["tool"]
    assert status["edited_by_user"] == ["src/tool/data.py", "src/tool/model.py"]
    assert status["state"] == "applied"
    edited = applied.tree()
    applied.ok()
    assert applied.tree() == edited
    applied.write("patches/tool/speed.py", SPEED.replace("hurry(model)", "hurry(model=model)"))
    applied.ok()
    assert applied.read(MODEL).count(b"    # mine\n") == 1
    assert b"    hurry(model=model)\n" in applied.read(MODEL)
    applied.ok("revert")
    assert applied.read(MODEL) == TOOL["src/tool/model.py"].replace(
        b"    return value / 2", b"    # mine\n    return value / 2"
    )
    assert applied.read("tool/src/tool/data.py") == TOOL["src/tool/data.py"].replace(b"names = []", b"names = list()")


def test_edit_of_an_overlay_file_survives_apply(applied: Project) -> None:
    mine = applied.edit(HOOKS, b"    return model\n", b"    # mine\n    return model\n")
    applied.ok()
    assert applied.read(HOOKS) == mine
    applied.write(SOURCE, "LIMIT = 1\n\n\n" + FILES[SOURCE])
    applied.ok()
    assert applied.read(HOOKS) == b"LIMIT = 1\n\n\n" + mine


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (MODEL, b"    hurry(model)\n", b"    hurry(model, now=True)\n"),
        (HOOKS, b"    model.quick = True\n", b"    model.quick = 'mine'\n"),
    ],
)
def test_collision_on_revert_shows_both_and_touches_nothing(
    applied: Project, file: str, old: bytes, new: bytes
) -> None:
    applied.edit(file, old, new)
    before = everything(applied.root)
    ran = applied.run("revert", "tool")
    assert ran.code == 1
    assert file.removeprefix("tool/") in ran.out
    assert "->" in ran.out
    assert everything(applied.root) == before


def test_collision_on_apply_touches_nothing_and_names_the_lines(applied: Project) -> None:
    applied.edit(MODEL, b"    hurry(model)\n", b"    hurry(model, now=True)\n")
    applied.write("patches/tool/speed.py", SPEED.replace("hurry(model)", "hurry(model=model)"))
    before = everything(applied.root)
    ran = applied.run("tool")
    assert ran.code == 1
    assert "hurry(model, now=True)" in ran.out
    assert "src/tool/model.py" in ran.out
    assert everything(applied.root) == before


def test_collision_in_an_overlay_both_changed(applied: Project) -> None:
    applied.edit(HOOKS, b"    model.quick = True\n", b"    model.quick = 'mine'\n")
    applied.write(SOURCE, FILES[SOURCE].replace("True", "'theirs'"))
    before = everything(applied.root)
    for verb in ("apply", "adopt"):
        ran = applied.run(verb, "tool")
        assert ran.code == 1
        assert "'mine'" in ran.out
        assert "'theirs'" in ran.out
    assert everything(applied.root) == before


def test_deleted_file_that_carries_an_edit_is_not_guessed_at(applied: Project) -> None:
    applied.at(MODEL).unlink()
    before = everything(applied.root)
    for verb in ("apply", "revert"):
        ran = applied.run(verb, "tool")
        assert ran.code == 1
        assert "git -C upstreams/tool checkout -- src/tool/model.py" in ran.out
        assert everything(applied.root) == before
    sh("checkout", "--", "src/tool/model.py", cwd=applied.at("tool"))
    applied.ok("revert")
    assert applied.is_pristine()


def test_deleted_overlay_file_comes_back_and_may_stay_away_on_revert(applied: Project) -> None:
    applied.at(HOOKS).unlink()
    assert applied.run("check").code == 4
    applied.ok()
    assert applied.read(HOOKS).decode() == FILES[SOURCE]
    applied.at(HOOKS).unlink()
    applied.ok("revert")
    assert applied.is_pristine()


def test_file_restored_by_git_is_grafted_again(applied: Project) -> None:
    sh("checkout", "--", "src/tool/model.py", cwd=applied.at("tool"))
    status = applied.ok("status", "tool")
    assert re.search(r"missing +speed: src/tool/model.py load: 'hurry\(model\)'", status.out)
    assert applied.run("check", "tool").code == 4
    applied.ok()
    assert contents(applied, AFTER_BOTH) == AFTER_BOTH
    sh("checkout", "--", "src/tool/model.py", cwd=applied.at("tool"))
    applied.ok("revert")
    assert applied.is_pristine()


def test_mode_of_an_edited_file_stays(fetched: Project) -> None:
    fetched.at(MODEL).chmod(0o755)
    fetched.ok()
    assert fetched.at(MODEL).stat().st_mode & 0o777 == 0o755
