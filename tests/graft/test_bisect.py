"""The commit at which an edit stops to locate: on a line, through merges, forth and back, after moves."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from graft import bisect
from graft.actions import Project
from graft.bisect import Named, choose, definition_diff, first_breaking, named, packs_of
from graft.errors import BadInput, GraftError
from graft.history import History
from graft.ui import Screen
from tests.graft.histories import Upstream, project
from tests.graft.repositories import sh


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "tool")


def edits_of(upstream: Upstream, root: Path) -> list[Named]:
    opened = Project.open(project(root, upstream, upstream.first))
    (pinned,) = opened.lock.upstreams
    return named(packs_of(opened, pinned, ()))


@pytest.fixture
def edit(upstream: Upstream, tmp_path: Path) -> Named:
    return edits_of(upstream, tmp_path / "project")[1]


def test_on_a_line(upstream: Upstream, edit: Named) -> None:
    upstream.commit({"README.md": "1\n"}, "before")
    before = upstream.change("loss.backward()", "loss.backward()  # all", "the same function, another line")
    guilty = upstream.change("model = wrap(model, cfg)", "model = wrap_all(model)", "wrap all")
    upstream.commit({"README.md": "2\n"}, "after")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
        assert (found.commit.id, found.before, found.merge, found.turns) == (guilty, before, None, ())
        assert found.outcome.state.value == "lost"
        diff = definition_diff(history, edit.place, found.before, found.commit.id).splitlines()
    changed = [line for line in diff if line[0] in "+-"]
    assert changed == [
        "--- src/train.py (train)",
        "+++ src/train.py (train)",
        "-    model = wrap(model, cfg)",
        "+    model = wrap_all(model)",
    ]
    assert not any("prepare" in line for line in diff)


def test_a_definition_that_moves_is_followed_and_is_no_break(upstream: Upstream, edit: Named) -> None:
    upstream.move("src/train.py", "src/deep/loop.py", "move")
    guilty = upstream.change("    model = wrap(model, cfg)\n", "", "unwrap", path="src/deep/loop.py")
    with History(upstream.place) as history:
        assert first_breaking(history, edit, upstream.first, "main").commit.id == guilty


def test_a_second_match_breaks_it_too(upstream: Upstream, edit: Named) -> None:
    twice = "    model = wrap(model, cfg)\n    model = wrap(model, cfg)\n"
    guilty = upstream.change("    model = wrap(model, cfg)\n", twice, "twice")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
    assert (found.commit.id, found.outcome.state.value) == (guilty, "ambiguous")


def test_a_deleted_definition(upstream: Upstream, edit: Named) -> None:
    guilty = upstream.commit({"src/train.py": "def fit(cfg): ...\n"}, "renamed")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
        assert found.commit.id == guilty
        diff = definition_diff(history, edit.place, found.before, found.commit.id)
    assert "+++ /dev/null (train)" in diff
    assert "-def train(cfg, data):" in diff


def test_the_branch_that_a_merge_brought_in_is_searched(upstream: Upstream, edit: Named) -> None:
    upstream.branch("side", upstream.first)
    upstream.commit({"side.txt": "1\n"}, "on the side")
    guilty = upstream.change("wrap(model, cfg)", "wrap(model)", "guilty")
    upstream.commit({"side.txt": "2\n"}, "still on the side")
    upstream.switch("main")
    upstream.commit({"README.md": "1\n"}, "main goes on")
    merge = upstream.merge("side", "merge side")
    upstream.commit({"README.md": "2\n"}, "and on")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
        assert found.merge is not None
        assert (found.commit.id, found.merge.id) == (guilty, merge)
        # on the way of first parents no commit of the side branch is tried before the merge
        assert found.commit.id not in [commit.id for commit in history.first_parents(upstream.first, "main")]


def test_a_merge_that_does_it_itself_is_named(upstream: Upstream, edit: Named) -> None:
    upstream.branch("side", upstream.first)
    upstream.commit({"side.txt": "1\n"}, "harmless")
    upstream.switch("main")
    upstream.commit({"README.md": "1\n"}, "main goes on")
    sh("merge", "-q", "--no-ff", "--no-commit", "side", cwd=upstream.place)
    guilty = upstream.change("wrap(model, cfg)", "wrap(model)", "an evil merge")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
        assert (found.commit.id, found.merge) == (guilty, None)
        assert len(found.commit.parents) == 2


def test_good_on_a_release_branch(upstream: Upstream, edit: Named) -> None:
    upstream.commit({"README.md": "1\n"}, "the fork")
    upstream.branch("release", upstream.head)
    good = upstream.commit({"release.txt": "1\n"}, "on the release branch only")
    upstream.switch("main")
    guilty = upstream.change("wrap(model, cfg)", "wrap(model)", "guilty")
    with History(upstream.place) as history:
        assert first_breaking(history, edit, good, "main").commit.id == guilty


def test_a_fork_that_ends_like_the_bad_side_is_said(upstream: Upstream, edit: Named) -> None:
    upstream.change("wrap(model, cfg)", "wrap(model)", "lost before the fork")
    upstream.branch("release", upstream.head)
    good = upstream.change("wrap(model)", "wrap(model, cfg)", "mended on the release branch only")
    upstream.switch("main")
    upstream.commit({"README.md": "1\n"}, "main goes on")
    with History(upstream.place) as history, pytest.raises(GraftError, match="fork"):
        first_breaking(history, edit, good, "main")


def test_it_came_and_went(upstream: Upstream, edit: Named) -> None:
    first = upstream.change("wrap(model, cfg)", "wrap(model)", "away")
    back = upstream.change("wrap(model)", "wrap(model, cfg)", "back")
    again = upstream.change("wrap(model, cfg)", "wrap()", "away again")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, upstream.first, "main")
    assert found.commit.id == first
    assert [commit.id for commit in found.turns] == [back, again]


def test_good_and_bad_the_other_way_round(upstream: Upstream, edit: Named) -> None:
    old = upstream.change("wrap(model, cfg)", "wrap(model)", "away")
    upstream.commit({"README.md": "1\n"}, "between")
    back = upstream.change("wrap(model)", "wrap(model, cfg)", "back")
    upstream.commit({"README.md": "2\n"}, "after")
    with History(upstream.place) as history:
        found = first_breaking(history, edit, "main", old)
    assert found.commit.id == back
    assert found.outcome.good


def test_ends_that_end_alike_are_refused(upstream: Upstream, edit: Named) -> None:
    upstream.commit({"README.md": "1\n"}, "harmless")
    lost = upstream.change("wrap(model, cfg)", "wrap(model)", "away")
    with History(upstream.place) as history:
        with pytest.raises(GraftError, match="locates at the bad end too"):
            first_breaking(history, edit, upstream.first, f"{lost}~1")
        with pytest.raises(GraftError, match="does not locate at the good end"):
            first_breaking(history, edit, lost, upstream.first)


def test_an_edit_is_named_by_number_or_by_a_piece(upstream: Upstream, tmp_path: Path) -> None:
    edits = edits_of(upstream, tmp_path / "project")
    assert [str(edit) for edit in edits] == ["hook:1", "hook:2", "hook:3"]
    assert choose(edits, "hook:3") is edits[2]
    assert choose(edits, "wrap(model") is edits[1]
    with pytest.raises(BadInput, match="names 3 edits"):
        choose(edits, "train")
    with pytest.raises(BadInput, match="names no edit"):
        choose(edits, "hook:4")


def command(root: Path, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    bisect.add_parser(parser.add_subparsers(dest="verb"))
    options = parser.parse_args(["bisect", *words])
    out = io.StringIO()
    return bisect.run(Project.open(root), options, Screen(quiet=options.json, out=out)), out.getvalue()


def test_the_command_shows_commit_definition_and_candidates(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guilty = upstream.change("wrap(model, cfg)", "wrap(model, cfg, deep=True)", "deeper")
    root = project(tmp_path / "project", upstream, upstream.first)
    words = ("Tool", "--edit", "hook:2", "--good", upstream.first, "--bad", "main")
    code, text = command(root, *words)
    assert code == 0
    for piece in (
        guilty,
        "2024-01-02T03:04:05+00:00",
        "deeper",
        "stops to locate",
        "+    model = wrap(model, cfg, deep",
    ):
        assert piece in text
    code, text = command(root, *words, "--json")
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, text, data["commit"], data["subject"]) == (0, "", guilty, "deeper")
    assert data["candidates"][0]["code"] == "model = wrap(model, cfg, deep=True)"


def test_an_upstream_without_packs_is_bad_input(upstream: Upstream, tmp_path: Path) -> None:
    root = project(tmp_path / "project", upstream, upstream.first, packs={})
    with pytest.raises(BadInput, match="no pack with an edit"):
        command(root, "Tool", "--edit", "x", "--good", "main", "--bad", "main")
