"""A range of upstream commits: which of them count, which break, which are set aside, and that none is hidden."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import pytest

from graft import survive
from graft.actions import Project
from graft.bisect import packs_of
from graft.errors import BadInput, GraftError
from graft.history import GitTree, History
from graft.pack import Pack
from graft.rewrite import rewrite
from graft.trials import Bench, Survival
from graft.ui import Screen
from tests.graft.histories import PACK, TRAIN, Upstream, project

LATE = """\
from graft.pack import In, Pack, add_import, before

PACK = Pack(
    upstream="Tool",
    name="late",
    why="a definition that came later",
    edits=[In("src/train.py", "evaluate", before("return score", add="note(score)", why="kept"))],
)
"""


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "tool")


def trials(root: Path, upstream: Upstream, *, packs: dict[str, str] | None = None, span: str = "") -> Survival:
    opened = Project.open(project(root, upstream, upstream.first, packs=packs))
    (pinned,) = opened.lock.upstreams
    with History(upstream.place) as history:
        loaded = packs_of(opened, pinned, ())
        found = Bench(history, loaded).trials(span or f"{upstream.first}..main")
        for trial in found:  # what is remembered for each file is what one run over everything says
            assert (trial.verdict == "stands") == _stands(history.tree(trial.commit.id), loaded)
        return Survival("Tool", span, None, found, 0.0)


def _stands(tree: GitTree, packs: list[Pack]) -> bool:
    try:
        return not rewrite(tree, packs).failures
    except GraftError:
        return False


def verdicts(result: Survival) -> list[tuple[str, str]]:
    return [(trial.commit.subject, trial.verdict) for trial in result.trials]


def test_only_commits_that_touch_the_files_count(upstream: Upstream, tmp_path: Path) -> None:
    upstream.commit({"README.md": "1\n"}, "elsewhere")
    upstream.change("build(cfg)", "build(cfg, 1)", "harmless")
    upstream.change("wrap(model, cfg)", "wrap(model)", "breaks")
    upstream.change("wrap(model)", "wrap(model, cfg)", "mends")
    result = trials(tmp_path / "project", upstream)
    assert verdicts(result) == [("harmless", "stands"), ("breaks", "broken"), ("mends", "stands")]
    assert result.rate == pytest.approx(2 / 3)


def test_a_moved_definition_is_followed_through_the_files_it_stood_in(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "in the first file")
    upstream.move("src/train.py", "src/loop.py", "first move")
    upstream.change("build(cfg, 1)", "build(cfg, 2)", "in the second file", path="src/loop.py")
    upstream.move("src/loop.py", "lib/deep/fit.py", "second move")
    upstream.change("build(cfg, 2)", "build(cfg, 3)", "in the third file", path="lib/deep/fit.py")
    upstream.change("model = wrap(model, cfg)", "pass", "breaks in the third file", path="lib/deep/fit.py")
    subjects = ["in the first file", "first move", "in the second file", "second move", "in the third file"]
    expected = [*((subject, "stands") for subject in subjects), ("breaks in the third file", "broken")]
    assert verdicts(trials(tmp_path / "project", upstream)) == expected
    later = PACK.replace("src/train.py", "lib/deep/fit.py")  # a pack written at the end looks back over the same files
    assert verdicts(trials(tmp_path / "later", upstream, packs={"hook": later})) == expected
    moved = trials(tmp_path / "project", upstream).trials[2].moved
    assert moved == (("src/train.py", "src/loop.py"),)


def test_two_homes_for_one_definition_are_a_break_not_set_aside(upstream: Upstream, tmp_path: Path) -> None:
    text = (upstream.place / "src/train.py").read_text()
    upstream.commit({"src/train.py": None, "a.py": text, "b.py": text}, "two of them")
    result = trials(tmp_path / "project", upstream)
    assert verdicts(result) == [("two of them", "broken")]
    assert "several other files" in result.trials[0].failures[0].detail


def test_a_definition_that_is_in_no_file_sets_the_commit_aside_by_name(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "too early")
    text = (upstream.place / "src/train.py").read_text()
    evaluate = "\n\ndef evaluate(model):\n    score = model()\n    return score\n"
    upstream.commit({"src/train.py": text + evaluate}, "there it is")
    upstream.change("    return score\n", "    return -score\n", "broken, not set aside")
    result = trials(tmp_path / "project", upstream, packs={"hook": PACK, "late": LATE})
    assert verdicts(result) == [
        ("too early", "set aside"),
        ("there it is", "stands"),
        ("broken, not set aside", "broken"),
    ]
    assert result.aside[0].missing == ("evaluate",)
    assert (len(result.judged), result.rate) == (2, 0.5)


def test_a_definition_that_is_gone_is_a_break_and_not_set_aside(upstream: Upstream, tmp_path: Path) -> None:
    name = "train"
    upstream.change("build(cfg)", "build(cfg, 1)", "harmless")
    upstream.change(f"def {name}(", "def renamed(", "gone")
    upstream.change("build(cfg, 1)", "build(cfg, 2)", "still gone")
    result = trials(tmp_path / "project", upstream)
    assert verdicts(result) == [("harmless", "stands"), ("gone", "broken"), ("still gone", "broken")]
    assert {failure.definition for failure in result.trials[1].failures} == {name}
    assert all("was there before" in failure.detail for failure in result.trials[1].failures)
    only = trials(tmp_path / "later", upstream, span=f"{result.trials[0].commit.id}..main")
    assert [verdict for _, verdict in verdicts(only)] == ["broken", "broken"]


def test_a_range_without_commits_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "one")
    for span in ("main..main", f"main..{upstream.first}"):
        with pytest.raises(BadInput, match="no commit lies in"):
            trials(tmp_path / span.replace("..", "-"), upstream, span=span)


def test_two_matches_and_unreadable_files_break(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("    model = wrap(model, cfg)\n", "    model = wrap(model, cfg)\n" * 2, "twice")
    upstream.commit({"src/train.py": "def train(:\n"}, "no Python")
    result = trials(tmp_path / "project", upstream)
    assert [verdict for _, verdict in verdicts(result)] == ["broken", "broken"]
    assert result.trials[0].failures[0].state == "ambiguous"
    assert "not Python" in result.trials[1].failures[0].detail


def test_edits_that_meet_in_one_file_after_a_move_are_tried_together(upstream: Upstream, tmp_path: Path) -> None:
    other = "def test(model):\n    return model\n"
    upstream.commit({"src/test.py": other}, "another file")
    pin = upstream.head
    text = (upstream.place / "src/train.py").read_text()
    upstream.commit({"src/train.py": text + "\n\n" + other, "src/test.py": None}, "one file")
    second = LATE.replace('"evaluate", before("return score"', '"test", before("return model"').replace(
        "train.py", "test.py"
    )
    result = trials(tmp_path / "project", upstream, packs={"hook": PACK, "late": second}, span=f"{pin}..main")
    assert verdicts(result) == [("one file", "stands")]
    assert set(result.trials[0].digests) == {"src/train.py"}


def test_a_range_that_touches_nothing_is_judged_by_its_end(upstream: Upstream, tmp_path: Path) -> None:
    upstream.commit({"README.md": "1\n"}, "elsewhere")
    assert verdicts(trials(tmp_path / "project", upstream)) == [("elsewhere", "stands")]


def test_successive_commits_that_break_alike_are_one_stretch(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("wrap(model, cfg)", "wrap(model)", "breaks")
    upstream.change("build(cfg)", "build(cfg, 1)", "still broken")
    upstream.change("    return model\n", "    return None\n", "more breaks")
    stretches = trials(tmp_path / "project", upstream).stretches()
    assert [(one.first.commit.subject, one.last.commit.subject, one.commits) for one in stretches] == [
        ("breaks", "still broken", 2),
        ("more breaks", "more breaks", 1),
    ]
    assert [failure.edit for failure in stretches[1].failures if failure.edit] == ["hook:2", "hook:3"]


def command(root: Path, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    survive.add_parser(parser.add_subparsers(dest="verb"))
    options = parser.parse_args(["survive", "Tool", *words])
    out = io.StringIO()
    return survive.run(Project.open(root), options, Screen(quiet=options.json, out=out)), out.getvalue()


def test_the_command_names_what_breaks_and_where_it_may_be(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "harmless")
    guilty = upstream.change("wrap(model, cfg)", "wrap(model, cfg, deep=True)", "deeper <b>")
    root = project(tmp_path / "project", upstream, upstream.first)
    html = tmp_path / "page.html"
    code, text = command(root, "--range", f"{upstream.first}..main", "--html", str(html))
    assert code == 1
    for piece in (
        "50.0%",
        "1 of 2",
        guilty[:10],
        "deeper",
        "hook:2",
        "model = wrap(model, cfg, deep=True)",
        "patch -F3",
    ):
        assert piece in text
    code, text = command(root, "--range", f"{upstream.first}..main", "--json")
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, text) == (1, "")
    assert (data["rate"], data["commits"], data["set_aside"]) == (0.5, 2, [])
    assert [one["commit"] for one in data["broken"]] == [guilty]
    assert set(data["textual"]) == {"git apply", "git apply --3way", "patch -F3"}
    assert data["seconds"] > 0
    page = html.read_text(encoding="utf-8")
    assert page.count('<i class="') >= 2 * 4
    assert "deeper <b>" not in page
    assert not re.search(r"https?://", page)


def test_all_well_is_exit_0_without_the_textual_tools_too(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "harmless")
    root = project(tmp_path / "project", upstream, upstream.first)
    code, text = command(root, "--range", f"{upstream.first}..main", "--no-textual")
    assert code == 0
    assert "100.0%" in text
    assert "patch" not in text


def test_one_pack_only(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("    return model\n", "    return None\n", "breaks one of them")
    root = project(tmp_path / "project", upstream, upstream.first, packs={"hook": PACK, "late": LATE})
    assert "evaluate: 1" in command(root, "--range", f"{upstream.first}..main", "--no-textual")[1]
    text = command(root, "--range", f"{upstream.first}..main", "--no-textual", "--pack", "hook")[1]
    assert "set aside" not in text
    assert "hook:3" in text
    with pytest.raises(BadInput, match="no pack is called"):
        command(root, "--range", f"{upstream.first}..main", "--pack", "nothing")


def test_nothing_is_written_into_the_upstreams_repository(upstream: Upstream, tmp_path: Path) -> None:
    upstream.change("build(cfg)", "build(cfg, 1)", "harmless")
    upstream.commit({"src/train.py": TRAIN.replace("wrap(model, cfg)", "wrap(model)")}, "conflicts")
    root = project(tmp_path / "project", upstream, upstream.first)
    before = {path: path.is_file() and path.read_bytes() for path in upstream.place.rglob("*")}
    command(root, "--range", f"{upstream.first}..main")
    assert {path: path.is_file() and path.read_bytes() for path in upstream.place.rglob("*")} == before
