from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from graft.errors import BadInput, GraftError
from graft.git import (
    config_get,
    config_local,
    git,
    git_dir,
    git_text,
    has_commit,
    head_commit,
    is_clean,
    position,
    read_blob,
    read_blobs,
    redact,
    run,
    tree_id,
    version,
    watch,
)
from tests.graft.repositories import FILES, make_repository, sh


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    make_repository(tmp_path / "repo")
    return tmp_path / "repo"


def test_position_is_what_git_says(repo: Path) -> None:
    at = position(repo)
    assert [at.head, at.tree] == sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=repo).split()
    assert at.git_dir == repo / ".git"
    assert (head_commit(repo), tree_id(repo)) == (at.head, at.tree)
    assert tree_id(repo, "HEAD~1") == sh("rev-parse", "HEAD~1^{tree}", cwd=repo)


def test_position_of_a_submodule_follows_the_git_file(repo: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    make_repository(outer)
    sh("submodule", "--quiet", "add", repo.as_uri(), "sub", cwd=outer)
    assert (outer / "sub" / ".git").is_file()
    assert position(outer / "sub").git_dir == outer / ".git/modules/sub" == git_dir(outer / "sub")


def test_a_directory_inside_a_repository_is_not_taken_for_it(repo: Path) -> None:
    (repo / "src" / ".git").mkdir()
    with pytest.raises(GraftError, match="not a git repository"):
        position(repo / "src")
    with pytest.raises(GraftError, match="not a git checkout"):
        position(repo / "scripts")


def test_a_git_file_whose_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: ../nowhere\n")
    with pytest.raises(GraftError, match=r"git directory .*nowhere is gone"):
        git_dir(tmp_path)


def test_a_failure_names_the_command_and_gits_words_without_settings(repo: Path) -> None:
    with pytest.raises(GraftError) as caught:
        git(["-c", "a.b=c", "rev-parse", "--verify", "nowhere"], cwd=repo)
    assert "`git rev-parse --verify nowhere` failed: fatal: Needed a single revision" in caught.value.what
    assert caught.value.where == str(repo)
    assert run(["rev-parse", "--verify", "nowhere"], cwd=repo).code == 128
    assert git(["rev-parse", "--verify", "-q", "nowhere"], cwd=repo, check=False) == b""


def test_missing_directory_and_missing_git_are_told_apart(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GraftError, match="not a directory"):
        git(["status"], cwd=tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraftError, match="git could not be started") as caught:
        git(["status"], cwd=repo)
    assert "install git" in caught.value.remedy


def test_a_surrounding_gits_environment_does_not_redirect(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository(tmp_path / "other", later=True)
    wanted = head_commit(repo)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other/.git/index"))
    assert head_commit(repo) == wanted
    assert is_clean(repo)


def test_replaced_objects_do_not_change_what_is_proven(repo: Path) -> None:
    tree = tree_id(repo)
    sh("replace", "HEAD", "HEAD~1", cwd=repo)
    assert sh("rev-parse", "HEAD^{tree}", cwd=repo) != tree
    assert tree_id(repo) == tree


def test_blobs_are_read_in_order_with_gaps(repo: Path) -> None:
    names = ["README.md", "nowhere", "assets/big.bin", "src/pkg/na\u00efve name.py", "src"]
    blobs = read_blobs(repo, [f"HEAD:{name}" for name in names])
    assert blobs[0] == FILES["README.md"][1]
    assert blobs[1] is None
    assert blobs[2] == bytes(range(256)) * 40
    assert blobs[3] == b"pass\n"
    assert blobs[4] is not None
    assert read_blob(repo, "HEAD~1:src/pkg/model.py") == FILES["src/pkg/model.py"][1]
    assert read_blobs(repo, []) == []
    with pytest.raises(BadInput, match="newline"):
        read_blobs(repo, ["HEAD:a\nb"])


def test_clean_means_no_edit_and_nothing_untracked(repo: Path) -> None:
    assert is_clean(repo)
    (repo / "new.py").write_text("")
    assert not is_clean(repo)
    (repo / "new.py").unlink()
    (repo / "README.md").write_text("edited")
    assert not is_clean(repo)


def test_config(repo: Path) -> None:
    sh("config", "--add", "remote.o.url", "a\nb", cwd=repo)
    sh("config", "--add", "remote.o.url", "c", cwd=repo)
    assert config_local(repo)["remote.o.url"] == ["a\nb", "c"]
    assert config_get(repo, "remote.o.url") == "c"
    assert config_get(repo, "no.such") is None


def test_has_commit(repo: Path) -> None:
    assert has_commit(repo, head_commit(repo))
    assert not has_commit(repo, "0" * 40)


def test_version_is_a_tuple_of_numbers(tmp_path: Path) -> None:
    assert ".".join(map(str, version(tmp_path))) in git_text(["--version"], cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host/x", "https://***@host/x"),
        ("fatal: 'https://token@host:8080/x' not found", "fatal: 'https://***@host:8080/x' not found"),
        ("https://host/a@b", "https://host/a@b"),
        ("git@host:x", "git@host:x"),
    ],
)
def test_credentials_are_never_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_dead_remote_is_given_up_after_silence(repo: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(server.accept()[0]), daemon=True).start()
        url = f"git://127.0.0.1:{server.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(GraftError, match="no answer for 1 s"):
            watch(["ls-remote", url], cwd=repo, progress=lambda text: None, silence=1.0)
        assert time.monotonic() - began < 5
        for connection in held:
            connection.close()


def test_watch_passes_progress_on_and_names_failures(repo: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    watch(["clone", "--progress", repo.as_uri(), str(tmp_path / "c")], cwd=tmp_path, progress=heard.append, silence=30)
    assert any("Receiving objects" in text for text in heard)
    assert all("\r" not in text and "\n" not in text for text in heard)
    with pytest.raises(GraftError, match=r"does not appear to be a git repository|does not exist"):
        watch(["ls-remote", (tmp_path / "no").as_uri()], cwd=repo, progress=heard.append, silence=30)
    assert [text for text in heard if "fatal" in text or "Please make sure" in text or "Cloning" in text] == []


def test_one_call_is_fast_enough_for_a_second_apply(repo: Path) -> None:
    position(repo)
    began = time.monotonic()
    for _ in range(10):
        position(repo)
    assert (time.monotonic() - began) / 10 < 0.1
