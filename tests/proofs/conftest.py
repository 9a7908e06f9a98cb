"""The stand-in project, made once and put back between the cases, and the counts at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.fsops import FileSystem
from tests.proofs.counts import summary
from tests.standins.project import Project
from tests.standins.upstream import OTHER, TOOL, Pin, make_upstream


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if said := summary():
        terminalreporter.write_line(said)


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pin]:
    place = tmp_path_factory.mktemp("upstreams")
    return {"tool": make_upstream(place / "tool", TOOL), "other": make_upstream(place / "other", OTHER)}


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk proves nothing here: what a power cut leaves is tested with the transaction itself."""
    for name in ("fsync", "fsync_dir"):
        monkeypatch.setattr(FileSystem, name, lambda self, path: None)


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory, pins: dict[str, Pin]) -> Callable[[], Project]:
    """Makes stand-in projects in which every pack is applied."""

    def make() -> Project:
        project = Project.make(tmp_path_factory.mktemp("proof") / "project", pins)
        project.ok("apply")
        return project

    return make


@pytest.fixture
def applied(_no_sync: None, make_project: Callable[[], Project]) -> Project:
    return make_project()


@pytest.fixture
def fetched(applied: Project) -> Project:
    """A project whose checkouts are there, without any graft."""
    applied.ok("revert")
    return applied


@pytest.fixture
def bare(tmp_path: Path, pins: dict[str, Pin]) -> Project:
    """A project in which nothing is fetched yet."""
    return Project.make(tmp_path / "project", pins)
