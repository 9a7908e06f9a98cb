"""For all tests: which upstreams were real in this run, which stood in, and which must not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser import Browser
from tests.standins.used import STATES, real, summary

# The places of the machine that tests run on are no part of them.
os.environ["GRAFT_PLACES"] = os.devnull

ON_REAL = {"tests/llamafactory/": "LLaMA-Factory"}
"""Folders whose tests run inside a grafted checkout, and skip where there is none."""


# What tests read of reports is English, wherever they run.
os.environ["GRAFT_LANG"] = "en"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all pages of a run; tests that ask for it are marked with `pages.needs_chromium`."""
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-upstream",
        action="append",
        default=[],
        metavar="NAME",
        help="fail where a stand-in takes this upstream's place, or where no test used the real one; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    STATES.begin(config.getoption("--require-upstream"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        for folder, name in ON_REAL.items():
            if report.nodeid.startswith(folder):
                real(name, "the grafted checkout")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if STATES.missing() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in summary():
        terminalreporter.write_line(line)
    for name in STATES.missing():
        terminalreporter.write_line(f"ERROR --require-upstream {name}: no test of this run used the real one", red=True)
