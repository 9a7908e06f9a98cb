"""Another commit of the upstream: what is tried, what moves, what stays. What a kill leaves is in tests/proofs."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft import actions
from graft.errors import BadInput, GraftError, Unreachable
from graft.upgrade import Upgrade, upgrade
from tests.standins.later import MODEL, NEW_MODEL, TRAIN, go_on
from tests.standins.packs import AFTER_BOTH
from tests.standins.project import Project, everything
from tests.standins.upstream import Pin, commit_files, sh


@pytest.fixture
def moving(fetched: Project, tmp_path: Path) -> Project:
    """An applied project whose upstream goes on: ``v2`` moves a function, ``v3`` breaks an anchor."""
    return go_on(fetched, tmp_path / "upstream")


def go(project: Project, ref: str, *, dry_run: bool = False) -> Upgrade:
    opened = actions.Project.open(project.root)
    return upgrade(opened, opened.lock.select(["tool"])[0], ref, actions.Options(), dry_run=dry_run)


def verdicts(done: Upgrade) -> dict[str, str]:
    return {f"{trial.outcome.pack}:{trial.outcome.added}": trial.verdict for trial in done.trials}


def commit_of(project: Project, ref: str) -> str:
    return sh("rev-parse", f"{ref}^{{commit}}", cwd=project.pins["tool"].place)


def test_a_dry_run_reports_every_edit_and_changes_nothing(moving: Project) -> None:
    before = everything(moving.root)
    done = go(moving, "v2", dry_run=True)
    assert verdicts(done) == {
        "notes:self.note = scaled": "applied",
        "notes:NOTES = []": "applied",
        "speed:from .speed.hooks import hurry": "applied",
        "speed:hurry(model)": "applied",
        "speed:speed: bool = False": "applied",
        "speed:$m.seen(loss)": "moved",
    }
    (moved,) = [trial for trial in done.trials if trial.verdict == "moved"]
    assert (moved.outcome.moved_from, moved.outcome.path) == (TRAIN, "src/tool/loop/steps.py")
    (changed,) = [trial for trial in done.trials if trial.outcome.added == "hurry(model)"]
    assert "+    warm(model)\n" in changed.around
    assert not any(trial.around for trial in done.trials if trial is not changed)
    after = everything(moving.root)
    fetched = {name for name in after.keys() ^ before.keys() if "/objects/" in name}
    assert {name for name in after if after[name] != before.get(name)} - fetched <= {
        name for name in after if name.endswith(("/shallow", "/FETCH_HEAD"))
    }


def test_the_pin_moves_with_everything_that_names_it(moving: Project) -> None:
    lock = moving.root / "upstream.lock"
    before = lock.read_text()
    done = go(moving, "v2")
    new = commit_of(moving, "v2")
    tree = sh("rev-parse", "v2^{tree}", cwd=moving.pins["tool"].place)
    assert done.moved
    assert not done.report.errors
    changed = before.replace('ref = "main"', 'ref = "v2"', 1).replace(moving.pins["tool"].commit, new)
    assert lock.read_text() == changed.replace(moving.pins["tool"].tree, tree)
    assert sh("ls-files", "--stage", "upstreams/tool", cwd=moving.root).split()[1] == new
    assert sh("rev-parse", "HEAD", cwd=moving.at("tool")) == new
    assert moving.read(f"tool/{MODEL}") == AFTER_BOTH[MODEL].replace(
        b"    # compiled last\n", b"    warm(model)\n    # compiled last\n"
    )
    assert moving.read("tool/src/tool/loop/steps.py") == AFTER_BOTH[TRAIN]
    assert not (moving.at("tool") / TRAIN).exists()
    assert moving.read("tool/docs/new.md") == b"new\n"
    moving.pins["tool"] = Pin(moving.pins["tool"].place, new, tree)
    assert moving.run("check", "tool").code == 0
    moving.ok("revert", "tool")
    assert moving.is_pristine("tool")


def test_there_and_back_leaves_no_difference(moving: Project) -> None:
    old = moving.pins["tool"].commit
    sh("tag", "v1", old, cwd=moving.pins["tool"].place)
    moving.root.joinpath("upstream.lock").write_text(
        (moving.root / "upstream.lock").read_text().replace('ref = "main"', 'ref = "v1"', 1)
    )
    sh("commit", "-qam", "v1", cwd=moving.root)
    files = {path: moving.read(f"tool/{path}") for path in AFTER_BOTH}
    assert go(moving, "v2").moved
    assert go(moving, "v1").moved
    assert sh("status", "--porcelain", "-uno", "--ignore-submodules=dirty", cwd=moving.root) == ""
    assert {path: moving.read(f"tool/{path}") for path in AFTER_BOTH} == files
    moving.ok("revert", "tool")
    assert moving.is_pristine("tool")


def test_a_lost_anchor_stops_it_with_candidates_and_nothing_changes(moving: Project) -> None:
    before = {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"}
    done = go(moving, "v3")
    assert verdicts(done)["speed:hurry(model)"] == "lost"
    (lost,) = [trial for trial in done.trials if trial.verdict == "lost"]
    assert lost.outcome.candidates[0].code == "return finish(model)"
    assert lost.first == f"{commit_of(moving, 'v3')[:10]} 2024-01-02 work"
    assert not done.moved
    assert len(done.report.errors) == 1
    assert {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"} == before
    assert sh("rev-parse", "HEAD", cwd=moving.at("tool")) == moving.pins["tool"].commit


def test_what_upstream_has_now_is_said(moving: Project) -> None:
    place = moving.pins["tool"].place
    commit_files(place, {MODEL: NEW_MODEL.replace(b"    return model\n", b"    hurry(model)\n    return model\n")})
    sh("tag", "v4", cwd=place)
    assert verdicts(go(moving, "v4", dry_run=True))["speed:hurry(model)"] == "upstream has it now"


def test_the_users_edits_go_along(moving: Project) -> None:
    moving.edit(f"tool/{MODEL}", b"def halve(value):\n", b"def halve(value):  # mine\n")
    moving.edit("tool/src/tool/speed/hooks.py", b"quick = True", b"quick = 2")
    (moving.at("tool") / "mine.txt").write_bytes(b"my own\n")
    assert go(moving, "v2").moved
    text = moving.read(f"tool/{MODEL}")
    assert b"def halve(value):  # mine\n" in text
    assert b"    warm(model)\n" in text
    assert b"    hurry(model)\n" in text
    assert b"quick = 2" in moving.read("tool/src/tool/speed/hooks.py")
    assert moving.read("tool/mine.txt") == b"my own\n"


@pytest.mark.parametrize(
    ("path", "old", "new", "says"),
    [
        ("README.md", b"# tool\n", b"# my tool\n", "want the same lines"),
        (TRAIN, b"report(step, loss)\n\treturn", b"report(step, 0)\n\treturn", "deletes a file that you edited"),
    ],
)
def test_a_collision_with_the_users_edit_moves_nothing(
    moving: Project, path: str, old: bytes, new: bytes, says: str
) -> None:
    moving.edit(f"tool/{path}", old, new)
    before = {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"}
    done = go(moving, "v2")
    assert [says in str(error) for error in done.report.errors] == [True]
    assert {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"} == before


def test_a_file_of_the_users_where_upstream_adds_one(moving: Project) -> None:
    (moving.at("tool") / "docs").mkdir()
    (moving.at("tool") / "docs/new.md").write_bytes(b"mine\n")
    done = go(moving, "v2")
    assert ["upstream adds a file" in str(error) for error in done.report.errors] == [True]
    assert moving.read("tool/docs/new.md") == b"mine\n"


@pytest.mark.parametrize(
    ("ref", "kind", "says"),
    [
        ("v9", Unreachable, "has no branch or tag v9"),
        ("-x", BadInput, "no branch, tag"),
        ("a..b", BadInput, "no branch, tag"),
    ],
)
def test_a_ref_that_is_none(moving: Project, ref: str, kind: type[GraftError], says: str) -> None:
    with pytest.raises(kind, match=says):
        go(moving, ref)


def test_staged_changes_are_not_lost(moving: Project) -> None:
    moving.edit("tool/README.md", b"# tool\n", b"# staged\n")
    sh("add", "README.md", cwd=moving.at("tool"))
    with pytest.raises(GraftError, match="staged changes"):
        go(moving, "v2")
    assert sh("diff", "--cached", "--name-only", cwd=moving.at("tool")) == "README.md"
