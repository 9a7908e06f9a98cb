"""What a running command says of itself."""

from __future__ import annotations

import math

import pytest

from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.row import Row
from runners.supervise.watching import lost_from, moved


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
