"""Another commit of the upstream: what is tried, what moves, what stays. What a kill leaves is in tests/proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def go(project: Project, ref: str | None, *, dry_run: bool = False, **options: Any) -> Upgrade:
    opened = actions.Project.open(project.root)
    return upgrade(opened, opened.lock.select(["tool"])[0], ref, actions.Options(**options), dry_run=dry_run)


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


def test_a_file_that_cannot_be_read_loses_its_edits_only(moving: Project) -> None:
    place = moving.pins["tool"].place
    commit_files(place, {MODEL: b"def broken(:\n"})
    sh("tag", "v5", cwd=place)
    done = go(moving, "v5", dry_run=True)
    ends = verdicts(done)
    assert ends["speed:$m.seen(loss)"] == "moved"
    assert {ends["speed:hurry(model)"], ends["notes:self.note = scaled"]} == {"lost"}
    (lost,) = [trial for trial in done.trials if trial.outcome.added == "hurry(model)"]
    assert "not Python" in lost.outcome.detail
    assert lost.first.endswith(" work")


def test_only_edits_that_still_match_are_shown_with_what_changed_around_them(moving: Project) -> None:
    done = go(moving, "v3", dry_run=True)
    assert all(trial.outcome.good for trial in done.trials if trial.around)
    assert [trial.edit for trial in done.trials] == ["notes:1", "notes:2", "speed:1", "speed:2", "speed:3", "speed:4"]


@pytest.mark.parametrize("to_folder", [True, False])
def test_what_the_move_would_refuse_the_dry_run_refuses_too(moving: Project, to_folder: bool) -> None:
    place = moving.pins["tool"].place
    sh("reset", "-q", "--hard", "v2", cwd=place)
    if to_folder:
        sh("rm", "-q", "README.md", cwd=place)
        commit_files(place, {"README.md/inner.txt": b"1\n"})
    else:
        sh("rm", "-rq", "docs", cwd=place)
        commit_files(place, {"docs": b"1\n"})
        assert go(moving, "v2").moved
    sh("tag", "v6", cwd=place)
    before = {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"}
    done = go(moving, "v6", dry_run=True)
    words = "a file became a folder upstream" if to_folder else "a folder became a file upstream"
    assert [words in str(error) for error in done.report.errors] == [True], done.report.errors
    assert {name: state for name, state in everything(moving.root).items() if "/.git/" not in f"/{name}"} == before


def test_a_checkout_follows_a_lock_that_somebody_else_moved(moving: Project) -> None:
    lock = moving.root / "upstream.lock"
    before = lock.read_bytes()
    assert go(moving, "v2").moved
    there = lock.read_bytes()
    assert go(moving, commit_of_lock(before)).moved  # back, and then as after `git pull` of a colleague's upgrade
    lock.write_bytes(there)
    moving.edit(f"tool/{MODEL}", b"def halve(value):\n", b"def halve(value):  # mine\n")
    refused = moving.run("apply", "tool")
    assert refused.code == 1
    assert "python apply.py upgrade tool takes the checkout there" in refused.said
    assert go(moving, None).moved
    assert lock.read_bytes() == there
    assert b"def halve(value):  # mine\n" in moving.read(f"tool/{MODEL}")
    assert sh("rev-parse", "HEAD", cwd=moving.at("tool")) == commit_of(moving, "v2")
    with pytest.raises(BadInput, match="is at the lock's pin"):
        go(moving, None)


def commit_of_lock(text: bytes) -> str:
    return text.decode().split('commit = "')[1].split('"')[0]


def test_the_history_is_fetched_once_where_none_is_at_hand(
    moving: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.past.find", no_history)
    said: list[str] = []
    first = f"{commit_of(moving, 'v3')[:10]} 2024-01-02 work"
    for _ in range(2):
        done = go(moving, "v3", dry_run=True, progress=said.append)
        assert [trial.first for trial in done.trials if trial.verdict == "lost"] == [first]
    assert sum("its history from" in text for text in said) == 1
    done = go(moving, "v3", dry_run=True, offline=True)
    assert any("which commits did it is not known" in note for note in done.report.notes)


def no_history(*_: object, **__: object) -> None:
    raise GraftError("its history is not on this machine", remedy="add --git-dir DIR")


def test_a_named_clone_serves_as_the_history(moving: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.history.mirror_of", lambda url, root: None)
    place = tmp_path / "clone"
    sh("clone", "-q", "--bare", str(moving.pins["tool"].place), str(place), cwd=tmp_path)
    done = go(moving, "v3", dry_run=True, git_dir=place)
    assert [trial.first[-4:] for trial in done.trials if trial.verdict == "lost"] == ["work"]


def test_a_changed_requirement_of_upstream_is_said(moving: Project) -> None:
    place = moving.pins["tool"].place
    commit_files(place, {"pyproject.toml": b'[project]\ndependencies = ["torch>=2,!=2.4", "tiny"]\n'})
    sh("tag", "v7", cwd=place)
    notes = go(moving, "v7", dry_run=True).report.notes
    assert "upstream's own requirement of torch changed: none -> >=2,!=2.4" in notes
    assert "upstream's own requirement of tiny changed: none -> any version" in notes


def test_another_git_at_work_is_waited_for(moving: Project) -> None:
    (moving.root / ".git/index.lock").write_bytes(b"")
    with pytest.raises(GraftError, match="another git command"):
        go(moving, "v2")
    assert sh("rev-parse", "HEAD", cwd=moving.at("tool")) == moving.pins["tool"].commit
