"""Progress in a log, where each line stays."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from graft.report import Report
from graft.show import show_report
from graft.ui import Screen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_for_a_stage_and_one_more_every_five_seconds(clock: list[float]) -> None:
    screen = Screen(out=io.StringIO(), err=(err := io.StringIO()))
    clock[0] += 2
    screen.progress("Tool: https://example.invalid/o/n")
    for percent in range(101):
        screen.progress(f"Receiving objects: {percent:3}% ({percent}/100)")
        if percent % 10 == 0:
            screen.progress(f"remote: Counting objects: {percent:3}% ({percent}/100)")
        clock[0] += 0.08  # 8.08 s in all
    screen.progress("Resolving deltas:   0% (0/3)")
    said = err.getvalue().splitlines()
    assert said[0] == "Tool: https://example.invalid/o/n"
    assert [line for line in said if "Receiving" in line] == [
        "Receiving objects:   0% (0/100)",
        "Receiving objects:  63% (63/100)",
    ]
    assert len([line for line in said if "Counting" in line]) == 2
    assert said[-1] == "Resolving deltas:   0% (0/3)"
    assert len(said) == 6


def test_what_git_said_of_a_source_is_told_only_when_none_served(tmp_path: Path) -> None:
    attempt = "https://h/n: `git fetch` failed: fatal: Could not read from remote repository."
    other = "mirror /m: does not hold the commit"
    for source in ("mirror", ""):
        report = Report("Tool", "upstreams/Tool", "c" * 40, "d" * 40, "MIT", source=source, tried=[attempt, other])
        screen = Screen(out=(out := io.StringIO()), err=io.StringIO())
        show_report(screen, "apply", report)
        assert ("fatal" in out.getvalue()) == (source == "")
        assert "https://h/n: " in out.getvalue()
        assert other in out.getvalue()
