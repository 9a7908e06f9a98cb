"""What counts as a change of a checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.digests import Digests, checkout_state, commit_of


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "data").mkdir(parents=True)
    (folder / "train.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "data" / "mesh.bin").write_bytes(bytes(range(256)))
    (folder / ".gitignore").write_text("ignored/\n", encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def edit(folder: Path) -> None:
    (folder / "train.py").write_text("x = 2\n", encoding="utf-8")


def edit_binary(folder: Path) -> None:
    (folder / "data" / "mesh.bin").write_bytes(b"\0" * 256)


def remove(folder: Path) -> None:
    (folder / "data" / "mesh.bin").unlink()


def add_module(folder: Path) -> None:
    (folder / "new.py").touch()


def add_ignored_module(folder: Path) -> None:
    (folder / "ignored").mkdir()
    (folder / "ignored" / "grafted.py").touch()


def commit(folder: Path) -> None:
    git(folder, "commit", "-q", "--allow-empty", "-m", "two")


CHANGES = [edit, edit_binary, remove, add_module, add_ignored_module, commit]


@pytest.mark.parametrize("change", CHANGES)
def test_each_of_these_is_a_change(checkout: Path, change: Callable[[Path], None]) -> None:
    before = checkout_state(checkout, Digests())
    assert before == checkout_state(checkout, Digests())
    change(checkout)
    assert checkout_state(checkout, Digests()) != before


def test_what_runs_leave_behind_is_none(checkout: Path) -> None:
    before = checkout_state(checkout, Digests())
    for name in ("wandb/run/code.py", "rollouts/x.mp4", "__pycache__/train.pyc", "venv/lib/site.py", "notes.txt"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    assert checkout_state(checkout, Digests()) == before


def test_a_file_whose_old_content_git_lacks_may_be_gone(checkout: Path) -> None:
    """As in a clone from a mirror without large files."""
    name = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD:data/mesh.bin"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (checkout / ".git" / "objects" / name[:2] / name[2:]).unlink()
    remove(checkout)
    before = checkout_state(checkout, Digests())
    edit(checkout)
    assert checkout_state(checkout, Digests()) != before


def test_a_folder_without_a_repository_counts_by_its_modules(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "train.py").write_text("x = 1\n", encoding="utf-8")
    before = checkout_state(folder, Digests())
    edit(folder)
    assert checkout_state(folder, Digests()) != before
    assert commit_of(folder) == ("", "")


def test_a_folder_inside_another_repository_is_not_taken_for_it(checkout: Path) -> None:
    assert commit_of(checkout / "data") == ("", "")
    assert commit_of(checkout)[0] != ""


def test_a_spoiled_memory_costs_time_and_not_truth(tmp_path: Path) -> None:
    path, memory = tmp_path / "file", tmp_path / "memory.json"
    path.write_text("a", encoding="utf-8")
    truth = Digests().of(path)
    memory.write_text("{", encoding="utf-8")
    digests = Digests(memory)
    assert digests.of(path) == truth
    digests.save()
    assert Digests(memory).of(path) == truth
