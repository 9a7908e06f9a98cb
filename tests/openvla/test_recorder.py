"""metrics.jsonl: what a new run, a resumed run and a killed run leave in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from research.recorder import MetricsFile


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps(path: Path) -> list[int]:
    return [line["step"] for line in lines(path)]


def test_a_new_run_moves_an_older_file_aside_and_only_when_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 40}\n', encoding="utf-8")
    file = MetricsFile(path, True, {"beta": 0.25}, {"input_guard": {"layers": 3}})
    assert steps(path) == [40]
    for step in (0, 10):
        file.write({"step": step})
    first = {"step": 0, "settings": {"beta": 0.25}, "input_guard": {"layers": 3}}
    assert lines(path) == [first, {"step": 10}]
    assert steps(tmp_path / "metrics.previous.jsonl") == [40]


def test_a_resumed_run_makes_its_steps_again_and_mends_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 10}\n{"step": 20}\n{"ste', encoding="utf-8")
    file = MetricsFile(path, True, {"beta": 0.75})
    file.continue_at(15)
    file.write({"step": 20, "again": True})
    settings = {"beta": 0.75}
    assert lines(path) == [{"step": 0}, {"step": 10}, {"step": 20, "again": True, "settings": settings}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl", False, {}).write({"step": 0})
    assert list(tmp_path.iterdir()) == []
