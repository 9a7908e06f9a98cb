"""The rows of a run, also of one that was resumed, as one curve for each name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from runners.supervise.metrics.row import Row


class Curve:
    """Values over steps, by name.

    The last writing wins. A row of the same step adds to the one before, or replaces its values. A row of an earlier
    step says that the run was resumed from a checkpoint: what its source (`Row.source`) told of that step and of later
    ones is dropped at once, also steps that the resumed run has not reached yet. So no part of a course that was given
    up stands behind the one that was taken. A series without an earlier step was not resumed, and keeps what it has.
    """

    def __init__(self) -> None:
        self._series: dict[str, list[tuple[int, float]]] = {}
        self._from: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        self.highest = -1
        """The highest step that any row had, also one that was dropped since."""

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.step < self._steps.get(row.source, row.step):
                for name, source in self._from.items():
                    if source == row.source:
                        self._cut(name, row.step)
            self._steps[row.source] = row.step
            self.highest = max(self.highest, row.step)
            for name, value in row.values.items():
                self._cut(name, row.step)
                self._series.setdefault(name, []).append((row.step, value))
                self._from[name] = row.source

    def _cut(self, name: str, step: int) -> None:
        points = self._series.get(name, [])
        if points and points[-1][0] >= step:
            del points[bisect_left(points, (step, float("-inf"))) :]

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value), steps ascending, also NaN and infinities; empty for a name that no row had."""
        return list(self._series.get(name, ()))

    @property
    def names(self) -> list[str]:
        """Of every series that has a value."""
        return sorted(name for name, points in self._series.items() if points)

    @property
    def last(self) -> dict[str, float]:
        """The value at the highest step of every series."""
        return {name: self._series[name][-1][1] for name in self.names}


def thinned(points: Sequence[tuple[float, float]], most: int = 1200) -> list[tuple[float, float]]:
    """At most about `most` of the points, in their order: of every stretch the lowest and the highest, and both ends.

    A chart has no more pixels; every n-th point would lose the spikes. Values must be finite.
    """
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept = {0, len(points) - 1}
    for first in range(0, len(points), size):
        stretch = range(first, min(first + size, len(points)))
        kept |= {min(stretch, key=lambda place: points[place][1]), max(stretch, key=lambda place: points[place][1])}
    return [points[place] for place in sorted(kept)]
