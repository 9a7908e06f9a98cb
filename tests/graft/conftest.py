"""The stand-in project, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.fsops import FileSystem
from graft.pushguard import guard
from tests.standins.project import Project
from tests.standins.upstream import OTHER, TOOL, Pin, make_upstream


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pin]:
    place = tmp_path_factory.mktemp("upstreams")
    return {"tool": make_upstream(place / "tool", TOOL), "other": make_upstream(place / "other", OTHER)}


@pytest.fixture
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here: what a power cut leaves is tested with the transaction itself."""
    for name in ("fsync", "fsync_dir"):
        monkeypatch.setattr(FileSystem, name, lambda self, path: None)


@pytest.fixture
def project(_no_sync: None, tmp_path: Path, pins: dict[str, Pin]) -> Project:
    """A project in which nothing is fetched yet."""
    return Project.make(tmp_path / "project", pins)


@pytest.fixture(scope="session")
def _fetched(tmp_path_factory: pytest.TempPathFactory, pins: dict[str, Pin]) -> Callable[[Path], Project]:
    """Copies a project whose checkouts are there, ungrafted: fetching anew would take a test longer than the rest."""
    made = Project.make(tmp_path_factory.mktemp("made") / "project", pins)
    made.ok("apply")
    made.ok("revert")
    kept = made.root.with_name("kept")  # renamed, so that no absolute path in it leads anywhere
    made.root.rename(kept)

    def copy(root: Path) -> Project:
        shutil.copytree(kept, root, symlinks=True)
        for name in pins:
            guard(root / "upstreams" / name)  # its hook is named by an absolute path, which a move changes
        return Project(root, pins)

    return copy


@pytest.fixture
def fetched(_no_sync: None, tmp_path: Path, _fetched: Callable[[Path], Project]) -> Project:
    """A project whose checkouts are there, without any graft."""
    return _fetched(tmp_path / "project")


@pytest.fixture
def applied(fetched: Project) -> Project:
    """A project in which every pack is applied."""
    fetched.ok("apply")
    return fetched


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every call that changes the disk by way of the transaction."""
    seen: list[str] = []
    for name in ("create", "chmod", "replace", "unlink", "mkdir", "rmdir", "symlink"):
        real: Callable[..., None] = getattr(FileSystem, name)

        def spy(self: FileSystem, *args: Any, _name: str = name, _real: Callable[..., None] = real) -> None:
            seen.append(_name)
            _real(self, *args)

        monkeypatch.setattr(FileSystem, name, spy)
    return seen
