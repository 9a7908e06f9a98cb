"""A git directory read commit by commit: what it says is what plain git says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graft.errors import BadInput, GraftError
from graft.history import History, find, mirror_of
from graft.lock import Lock
from tests.graft.histories import TRAIN, Upstream, project
from tests.graft.repositories import make_repository, sh


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path / "tool")


def test_files_are_what_git_shows(tmp_path: Path) -> None:
    commit, _ = make_repository(tmp_path / "tool")
    with History(tmp_path / "tool") as history:
        tree = history.tree(commit)
        for path in ("README.md", "src/pkg/model.py", "src/pkg/naïve name.py", "scripts/run.sh", "assets/big.bin"):
            shown = subprocess.run(
                ["git", "show", f"{commit}:{path}"], cwd=tmp_path / "tool", capture_output=True, check=True
            ).stdout
            assert tree.read(path) == shown
        assert tree.read("src/pkg") is None
        assert tree.read("link.md") is None
        assert tree.read("src/nothing.py") is None
        assert tree.read("README.md/below") is None
        listed = sh("ls-tree", "-r", "-z", "--name-only", commit, cwd=tmp_path / "tool").split("\0")
        assert sorted(path for path, _ in tree.modules()) == sorted(path for path in listed if path.endswith(".py"))


def test_each_commit_has_its_own_tree(upstream: Upstream) -> None:
    second = upstream.change("wrap(model, cfg)", "wrap(model)", "second")
    with History(upstream.place) as history:
        assert history.tree(upstream.first).read("src/train.py") == TRAIN.encode()
        assert history.tree(second).read("src/train.py") == TRAIN.replace("wrap(model, cfg)", "wrap(model)").encode()


def test_a_bare_clone_reads_alike(upstream: Upstream, tmp_path: Path) -> None:
    sh("clone", "-q", "--bare", str(upstream.place), "bare", cwd=tmp_path)
    with History(tmp_path / "bare") as history:
        assert history.tree("main").read("src/train.py") == TRAIN.encode()


def test_commits_are_those_that_touch_the_paths_oldest_first(upstream: Upstream) -> None:
    other = upstream.commit({"README.md": "other\n"}, "other")
    touching = upstream.change("build(cfg)", "build(cfg, 1)", "a subject, with | signs")
    with History(upstream.place) as history:
        span = f"{upstream.first}..main"
        assert [commit.id for commit in history.commits(span)] == [other, touching]
        (commit,) = history.commits(span, ["src/train.py"])
        assert (commit.id, commit.parents, commit.subject) == (touching, (other,), "a subject, with | signs")
        assert (commit.day, commit.author) == ("2024-01-02", "T")
        assert commit.moment == 1704164645.0


def test_a_branch_that_changed_a_file_and_back_is_not_pruned(upstream: Upstream) -> None:
    upstream.branch("side", upstream.first)
    there = upstream.change("build(cfg)", "make(cfg)", "there")
    back = upstream.change("make(cfg)", "build(cfg)", "and back")
    upstream.switch("main")
    upstream.commit({"README.md": "x\n"}, "main goes on")
    upstream.merge("side", "merge")
    with History(upstream.place) as history:
        found = [commit.id for commit in history.commits(f"{upstream.first}..main", ["src/train.py"])]
    assert found == [there, back]


def test_a_file_is_parsed_once_for_all_commits_and_names(upstream: Upstream) -> None:
    moved = upstream.move("src/train.py", "src/loop.py", "moved")
    with History(upstream.place) as history:
        contents = [history.tree(c).read(p) for c, p in ((upstream.first, "src/train.py"), (moved, "src/loop.py"))]
        assert contents[0] is not None
        first, twin = history.parse("src/train.py", contents[0]), history.parse("src/loop.py", contents[0])
        assert history.parsed == 1
        assert first.module is twin.module
        assert (first.path, twin.path) == ("src/train.py", "src/loop.py")


def test_definitions_are_found_by_name_anywhere(upstream: Upstream) -> None:
    text = 'class Loop:\n    async def run(self):\n        def inner(): ...\n\n\n"""\ndef ghost(): ...\n"""\n'
    commit = upstream.commit({"deep/er/loop.py": text, "deep/notes.txt": "def run(): ...\n"}, "more")
    with History(upstream.place) as history:
        tree = history.tree(commit)
        assert tree.defining("run") == ["deep/er/loop.py"]
        assert tree.defining("train") == ["src/train.py"]
        blob = tree.blob("deep/er/loop.py")
        assert blob is not None
        assert {"Loop", "Loop.run", "Loop.run.inner"} <= history.qualified_names(blob)
        assert history.defines("deep/er/loop.py", blob, "Loop.run.inner")
        assert not history.defines("deep/er/loop.py", blob, "ghost")
        assert not history.defines("deep/er/loop.py", blob, "run")


@pytest.mark.parametrize("span", ["main", "..main", "main...main", "nothing..main", "main..nothing"])
def test_what_is_no_range_is_named(upstream: Upstream, span: str) -> None:
    with History(upstream.place) as history, pytest.raises(BadInput):
        history.commits(span)


def test_a_place_without_a_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="not a git repository"):
        History(tmp_path)


def test_a_missing_object_is_named(upstream: Upstream) -> None:
    with History(upstream.place) as history, pytest.raises(GraftError, match="is not there"):
        history.blob("0" * 40)


def test_the_history_is_the_checkouts_own_where_it_is_whole(upstream: Upstream, tmp_path: Path) -> None:
    root = project(tmp_path / "project", upstream, upstream.first)
    (pinned,) = Lock.load(root).upstreams
    sh("clone", "-q", str(upstream.place), str(root / "upstreams" / "Tool"), cwd=tmp_path)
    with find(pinned, root) as history:
        assert history.git_dir == root / "upstreams" / "Tool" / ".git"


def test_a_shallow_checkout_gives_way_to_the_mirror(upstream: Upstream, tmp_path: Path) -> None:
    upstream.commit({"README.md": "more\n"}, "more")
    root = project(tmp_path / "project", upstream, upstream.first)
    (pinned,) = Lock.load(root).upstreams
    sh("clone", "-q", "--depth=1", upstream.place.as_uri(), str(root / "upstreams" / "Tool"), cwd=tmp_path)
    with find(pinned, root) as history:
        assert history.git_dir == upstream.place / ".git"


def test_the_mirror_is_the_one_that_git_is_configured_with(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://example.invalid/tool"
    assert mirror_of(url, tmp_path) is None
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{upstream.place.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", url)
    assert mirror_of(url, tmp_path) == upstream.place


def test_without_any_history_the_remedy_is_a_clone(upstream: Upstream, tmp_path: Path) -> None:
    root = project(tmp_path / "project", upstream, upstream.first)
    (pinned,) = Lock.load(root).upstreams
    upstream.place.rename(tmp_path / "gone")
    with pytest.raises(GraftError) as caught:
        find(pinned, root)
    assert "git clone --bare" in caught.value.remedy
    with find(pinned, root, git_dir=tmp_path / "gone") as history:
        assert history.has(upstream.first)
    with pytest.raises(BadInput, match="not a directory"):
        find(pinned, root, git_dir=tmp_path / "nowhere")
