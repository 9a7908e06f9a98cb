"""Edits that graft finds without remembering them, and files that it must look at again."""

from __future__ import annotations

import pytest

from tests.standins.packs import AFTER_BOTH, FILES, SPEED
from tests.standins.project import Project
from tests.standins.upstream import sh

MODEL = "tool/src/tool/model.py"


def test_a_lost_ledger_is_made_again_and_revert_leaves_nothing(applied: Project) -> None:
    (applied.gitdir("tool") / "graft/ledger.json").unlink()
    ran = applied.ok("apply", "tool")
    assert "without being remembered" in ran.out
    assert {path: applied.read(f"tool/{path}") for path in AFTER_BOTH} == AFTER_BOTH
    applied.ok("revert", "tool")
    assert applied.is_pristine("tool")


def test_a_lost_ledger_beside_the_users_own_edits(applied: Project) -> None:
    (applied.gitdir("tool") / "graft/ledger.json").unlink()
    applied.edit(MODEL, b"def halve(value):\n", b"def halve(value):  # mine\n")
    applied.ok("apply", "tool")
    applied.ok("revert", "tool")
    assert b"hurry" not in applied.read(MODEL)
    assert b"def halve(value):  # mine\n" in applied.read(MODEL)


def test_one_line_applied_by_hand_is_one_line_all_the_same(fetched: Project) -> None:
    fetched.edit(MODEL, b"    return model\n", b"    hurry(model)\n    return model\n")
    fetched.ok("apply", "tool")
    assert fetched.read(MODEL) == AFTER_BOTH["src/tool/model.py"]
    fetched.ok("revert", "tool")
    assert fetched.is_pristine("tool")


def test_an_edit_that_the_upstream_has_is_looked_for_each_time(applied: Project) -> None:
    """The upstream calls report(...); a pack wants just that, and the user takes it out."""
    pack = SPEED.replace(
        'after("loss = $m.forward(step)", add="$m.seen(loss)"', 'after("loss = ...", add="report(step, loss)"'
    )
    applied.write("patches/tool/speed.py", pack)
    first = applied.ok("apply", "tool", "--json").json["upstreams"]["tool"]
    (edit,) = [edit for edit in first["packs"]["speed"]["edits"] if edit["adds"] == "report(step, loss)"]
    assert (edit["state"], edit["detail"]) == ("already applied", "the upstream has it")
    applied.edit("tool/src/tool/train.py", b"\t\treport(step, loss)\n", b"")
    assert applied.run("check", "tool").code == 4
    applied.ok("apply", "tool")
    assert b"\t\treport(step, loss)\n" in applied.read("tool/src/tool/train.py")


@pytest.mark.parametrize("pack", ["speed", "notes"])
def test_status_of_one_pack_beside_another(applied: Project, pack: str) -> None:
    beside = 'In("src/tool/model.py", "load", before("return model", add="note(model)", why="w")),\n        '
    text = FILES["patches/tool/notes.py"].replace('In("src/tool/data.py"', beside + 'In("src/tool/data.py"')
    applied.write("patches/tool/notes.py", "from graft.pack import before\n" + text)
    applied.ok("apply", "tool")
    report = applied.ok("status", "tool", "--pack", pack, "--json").json["upstreams"]["tool"]
    assert report["packs"].keys() == {pack}
    assert (report["state"], report["packs"][pack]["state"]) == ("applied", "applied")


def test_staged_overlays_are_no_files_of_the_upstream(applied: Project) -> None:
    sh("add", "-A", cwd=applied.at("tool"))
    applied.ok("revert", "tool")
    applied.ok("apply", "tool")


def test_all_that_is_wrong_is_said_at_once(fetched: Project) -> None:
    fetched.write(
        "patches/tool/speed.py",
        SPEED.replace("return model", "return nothing").replace("loss = $m.forward(step)", "loss = $m.backward(step)"),
    )
    fetched.write("overlays/tool/src/tool/speed/../data.py", "x = 1\n")
    text = (fetched.root / "patches/tool/speed.py").read_text()
    fetched.write("patches/tool/speed.py", text.replace('"src/tool/speed"]', '"src/tool/speed", "src/tool/data.py"]'))
    ran = fetched.run("apply", "tool")
    assert ran.code == 1
    for words in ("return nothing", "backward", "would cover a file of the upstream"):
        assert words in ran.out
    assert fetched.is_pristine("tool")
