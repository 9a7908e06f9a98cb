"""What a running command says of itself."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from runners.supervise.command import families, recognise
from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row
from runners.supervise.plateau import Settings, Verdict
from runners.supervise.watching import NAN, PLATEAU, Watcher, lost_from, moved


def curve(losses: list[float]) -> Curve:
    made = Curve()
    made.add([Row(step, {"loss": loss}) for step, loss in enumerate(losses, 1)])
    return made


@pytest.mark.parametrize(("losses", "lost"), [
    # Fine until it is no number.
    ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, math.nan], 7),
    # It grew beyond where it began, from step 6 on.
    ([2.0, 1.9, 1.8, 1.7, 1.6, 5.0, 90.0, math.inf, math.nan], 6),
    # A spike that it came back from does not count.
    ([2.0, 1.9, 1.8, 1.7, 1.6, 5.0, 1.5, 1.4, 9.0, math.nan], 9),
    # No number from the beginning.
    ([math.nan], 1),
])  # fmt: skip
def test_where_a_loss_was_lost(losses: list[float], lost: int) -> None:
    bad = next(step for step, loss in enumerate(losses, 1) if math.isnan(loss))
    assert lost_from(curve(losses), bad) == lost


def test_rows_of_a_part_count_from_the_whole_runs_beginning() -> None:
    rows = [Row(1, {"loss": 2.0}), Row(2, {"loss": 1.0})]
    assert [row.step for row in moved(rows, 10)] == [11, 12]
    assert moved(rows, 0) == rows


HERE = Path(__file__).resolve().parent


class Silent:
    total: int | None = None

    def say(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...

    def update(self, step: int | None = None, total: int | None = None, **values: float) -> None:
        self.total = total


class Told:
    """A watcher over a trainer's metrics.jsonl that this writes; `alarms` are those that it was told of."""

    def __init__(self, folder: Path, before: Curve | None = None, steps: int = 1000, stops: bool = False) -> None:
        self.log = folder / "metrics.jsonl"
        words = ["python3", str(HERE / "trainer.py"), "--output", str(folder), "--steps", str(steps)]
        command = recognise(words, folder, {}, families(HERE / "trainer.toml"))
        self.alarms: list[Verdict] = []
        self.view = Silent()
        self.watcher = Watcher(
            command,
            before or Curve(),
            self.view,
            lambda step: True,
            plateau=Settings(),
            stops=stops,
            on_plateau=lambda verdict, curve: self.alarms.append(verdict),
        )

    def look(self, rows: Sequence[dict[str, float]]) -> str:
        with self.log.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        return self.watcher.look()


def norms(first: int, count: int, norm: float, loss: float = 2.0) -> list[dict[str, float]]:
    return [{"step": first + index, "loss": loss, "grad_norm": norm} for index in range(count)]


@pytest.mark.parametrize("each", [1, 5])
def test_infinite_gradients_of_a_scaler_that_finds_its_scale_are_no_lost_loss(tmp_path: Path, each: int) -> None:
    told = Told(tmp_path)
    rows = [*norms(1, 19, math.inf), *norms(20, 5, 1.5), *norms(25, 19, math.inf)]
    assert {told.look(rows[first : first + each]) for first in range(0, len(rows), each)} == {""}
    assert told.watcher.bad == []
    assert told.look(norms(44, 1, math.inf)) == NAN
    assert told.watcher.bad[0].step == 25


def test_three_lost_losses_are_three_also_where_a_finite_row_follows_in_the_same_poll(tmp_path: Path) -> None:
    told = Told(tmp_path)
    assert told.look([*norms(1, 2, 1.0, math.nan), *norms(3, 1, 1.0), *norms(4, 2, 1.0, math.nan)]) == ""
    assert told.look([*norms(6, 1, math.inf, math.nan), *norms(7, 1, 1.0)]) == NAN
    assert [row.step for row in told.watcher.bad] == [4, 5, 6]


def flat_rows(count: int) -> list[dict[str, float]]:
    draw = random.Random(4)
    return [{"step": step, "loss": 1 - min(step, 300) / 300 + 0.02 * draw.gauss(0, 1)} for step in range(1, count + 1)]


def test_a_resume_has_the_same_alarm_and_no_look_twice(tmp_path: Path) -> None:
    rows = flat_rows(1000)
    (tmp_path / "whole").mkdir()
    whole = Told(tmp_path / "whole")
    for row in rows:
        whole.look([row])
    (alarm,) = whole.alarms
    # An attempt that came to step 340 died; one that went on from 320 begins with a watcher of its own.
    curve = Curve()
    curve.add([Row(int(row["step"]), {"loss": row["loss"]}) for row in [*rows[:340], *rows[320:330]]])
    assert alarm.step > 345
    resumed = Told(tmp_path, curve)
    for row in rows[330:]:
        resumed.look([row])
    assert [(item.step, item.level) for item in resumed.alarms] == [(alarm.step, alarm.level)]
    # One that had alarmed says so at once, and may pause at the next checkpoint.
    curve.add([Row(int(row["step"]), {"loss": row["loss"]}) for row in rows[330:]])
    again = Told(tmp_path, curve, stops=True)
    assert again.look([]) == PLATEAU
    assert [item.step for item in again.alarms] == [alarm.step]


def test_the_total_of_a_run_in_epochs_is_that_of_its_metrics(tmp_path: Path) -> None:
    told = Told(tmp_path, steps=-1)
    assert told.watcher.total is None
    rows = [{**row, "total_steps": 1000.0} for row in flat_rows(1000)]
    for first in range(0, 1000, 100):
        told.look(rows[first : first + 100])
    assert told.view.total == told.watcher.total == 1000
    (tmp_path / "known").mkdir()
    known = Told(tmp_path / "known")
    known.look(flat_rows(1000))
    assert [(one.step, one.level) for one in told.alarms] == [(one.step, one.level) for one in known.alarms]
