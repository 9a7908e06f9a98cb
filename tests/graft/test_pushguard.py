from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.pushguard import BASE, guard, guarded
from tests.graft.repositories import make_repository, sh


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A checkout of a bare repository next to it, with a commit of its own to push."""
    made = tmp_path / "made"
    make_repository(made)
    sh("clone", "-q", "--bare", str(made), "bare.git", cwd=tmp_path)
    sh("clone", "-q", "bare.git", "checkout", cwd=tmp_path)
    sh("commit", "-q", "--allow-empty", "-m", "mine", cwd=tmp_path / "checkout")
    return tmp_path / "checkout", tmp_path / "bare.git"


def push(checkout: Path, *args: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": str(config or os.devnull), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return subprocess.run(["git", "push", *args], cwd=checkout, env=env, capture_output=True, text=True, check=False)


WAYS = {
    "default": [],
    "named remote": ["origin", "HEAD:refs/heads/new"],
    "forced": ["--force", "origin", "HEAD:main"],
    "without hooks": ["--no-verify", "origin", "HEAD:main"],
    "explicit url": ["URL", "HEAD:main"],
    "explicit url without hooks": ["--no-verify", "URL", "HEAD:main"],
    "explicit path": ["PATH", "HEAD:main"],
    "all": ["--all"],
    "mirror": ["--mirror", "origin"],
    "tags": ["--tags", "origin"],
    "deletion": ["origin", ":refs/heads/other"],
    "second remote": ["second", "HEAD:main"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_push_is_refused(places: tuple[Path, Path], way: str) -> None:
    checkout, bare = places
    sh("remote", "add", "second", str(bare), cwd=checkout)
    sh("tag", "t", cwd=checkout)
    sh("branch", "other", cwd=bare)
    words = [word.replace("URL", bare.as_uri()).replace("PATH", str(bare)) for word in WAYS[way]]
    before = sh("for-each-ref", cwd=bare)
    guard(checkout)
    done = push(checkout, *words)
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()
    assert len(said) == 1
    assert "this is a checkout of someone else's repository; push from a clone of your own fork" in said[0]
    assert sh("for-each-ref", cwd=bare) == before
    for key in ("remote.origin.pushurl", "remote.second.pushurl", f"url.{BASE}.pushinsteadof", "core.hooksPath"):
        sh("config", "--unset-all", key, cwd=checkout)
    (checkout / ".git/hooks/pre-push").unlink()
    assert push(checkout, *words).returncode == 0, "the way is no push at all: the test would prove nothing"


def test_the_hook_alone_refuses_and_says_why(places: tuple[Path, Path]) -> None:
    checkout, bare = places
    guard(checkout)
    sh("config", "--unset-all", "remote.origin.pushurl", cwd=checkout)
    sh("config", "--unset-all", f"url.{BASE}.pushinsteadof", cwd=checkout)
    done = push(checkout, bare.as_uri(), "HEAD:main")
    assert done.returncode != 0
    assert "nothing is pushed from it" in done.stderr


def test_a_global_hooks_path_does_not_hide_the_hook(places: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, _ = places
    (tmp_path / "global-hooks").mkdir()
    config = tmp_path / "config"
    config.write_text(f"[core]\n\thooksPath = {tmp_path}/global-hooks\n")
    guard(checkout)
    sh("config", "--unset-all", "remote.origin.pushurl", cwd=checkout)
    sh("config", "--unset-all", f"url.{BASE}.pushinsteadof", cwd=checkout)
    done = push(checkout, "origin", "HEAD:main", config=config)
    assert "nothing is pushed from it" in done.stderr
    assert done.returncode != 0


def test_a_users_push_rewrite_does_not_open_a_way(places: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, bare = places
    config = tmp_path / "config"
    config.write_text(f'[url "{bare.as_uri()}"]\n\tpushInsteadOf = https://example.invalid/\n')
    before = sh("for-each-ref", cwd=bare)
    guard(checkout)
    assert push(checkout, "https://example.invalid/", "HEAD:main", config=config).returncode != 0
    assert sh("for-each-ref", cwd=bare) == before


def test_fetching_still_works(places: tuple[Path, Path]) -> None:
    checkout, _ = places
    guard(checkout)
    sh("fetch", "origin", cwd=checkout)


def test_the_second_time_writes_nothing(places: tuple[Path, Path]) -> None:
    checkout, _ = places
    assert not guarded(checkout)
    assert set(guard(checkout).wrote) >= {"remote.origin.pushurl", "core.hooksPath", "pre-push hook"}
    assert guarded(checkout)
    before = {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")}
    again = guard(checkout)
    assert (again.wrote, again.notes) == ((), ())
    assert {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")} == before


def test_what_was_taken_away_comes_back(places: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, _ = places
    guard(checkout)
    (checkout / ".git/hooks/pre-push").chmod(0o644)
    assert not guarded(checkout)
    assert guard(checkout).wrote == ("pre-push hook",)
    moved = tmp_path / "moved"
    checkout.rename(moved)
    assert guard(moved).wrote == ("core.hooksPath",)
    assert sh("config", "core.hooksPath", cwd=moved) == str(moved / ".git/hooks")


def test_a_users_own_hook_is_kept(places: tuple[Path, Path]) -> None:
    checkout, _ = places
    hook = checkout / ".git/hooks/pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 0\n")
    guard(checkout)
    assert hook.with_name("pre-push.before-graft").read_text() == "#!/bin/sh\nexit 0\n"
    assert guarded(checkout)


def test_a_users_own_hooks_path_is_left_and_told(places: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, bare = places
    (tmp_path / "mine").mkdir()
    sh("config", "core.hooksPath", str(tmp_path / "mine"), cwd=checkout)
    done = guard(checkout)
    assert any("core.hooksPath" in note for note in done.notes)
    assert sh("config", "core.hooksPath", cwd=checkout) == str(tmp_path / "mine")
    assert push(checkout, bare.as_uri(), "HEAD:main").returncode != 0


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="not a git checkout"):
        guard(tmp_path)
