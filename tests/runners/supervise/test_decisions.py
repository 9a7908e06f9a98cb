"""decisions.jsonl: what follows from it is the same whether it was just written or read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.supervise.decisions import Damaged, Decisions


def some(folder: Path) -> Decisions:
    decisions = Decisions(folder)
    decisions.add("start", "first attempt", kept=["old@1"])
    decisions.add("attempt", "as the command says", attempt=1)
    decisions.add("remedy", "half", cause="gpu", remedy="halve", settings={"batch": "4"}, environment={})
    decisions.add("attempt", "from checkpoint-5", attempt=2)
    decisions.add("remedy", "half", cause="gpu", remedy="halve", settings={"batch": "2"}, environment={"GL": "egl"})
    decisions.add("remedy", "lower", cause="nan", remedy="lower", factor=0.5, from_step=20, environment={"GL": "glx"})
    decisions.add("remedy", "lower", cause="nan", remedy="lower", factor=0.25, from_step=30)
    return decisions


def test_the_state_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    written, read = some(tmp_path).state, Decisions(tmp_path).state
    assert written == read
    assert read.attempts == 2
    assert read.settings == {"batch": "2"}
    assert read.environment == {"GL": "glx"}
    assert read.tried == {"GL": ["egl", "glx"]}
    assert read.used == {"gpu/halve": 2, "nan/lower": 2}
    assert read.kept == ["old@1"]


@pytest.mark.parametrize(("step", "factor"), [(5, 0.125), (20, 0.125), (21, 0.25), (30, 0.25), (31, 1.0)])
def test_a_checkpoint_owes_the_factors_of_what_came_after_it(tmp_path: Path, step: int, factor: float) -> None:
    assert some(tmp_path).state.factor(step) == factor


def test_a_line_that_was_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    decisions = some(tmp_path)
    whole = decisions.path.read_bytes()
    decisions.path.write_bytes(whole + b'{"kind": "remedy", "cau')
    assert Decisions(tmp_path).state == decisions.state
    assert decisions.path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    decisions = some(tmp_path)
    lines = decisions.path.read_text(encoding="utf-8").splitlines()
    decisions.path.write_text("\n".join([lines[0], "no json", *lines[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(Damaged, match=r"decisions\.jsonl, line 2"):
        Decisions(tmp_path)


def test_a_new_round_gives_every_remedy_its_budget_back_and_keeps_what_was_learned(tmp_path: Path) -> None:
    decisions = some(tmp_path)
    decisions.add("afresh", "called again")
    assert decisions.state.used == {}
    assert decisions.state.settings == {"batch": "2"}
