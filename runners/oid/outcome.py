"""All that an analysis found of one probe: what the report and the table are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runners.oid.decomposition import UNITS
from runners.oid.estimate import Result, Settings
from runners.oid.experts import Pair


@dataclass(frozen=True)
class Analysis:
    """All that is known of one probe; `results` by epoch, target and pair."""

    probe: str
    datasets: Sequence[str]
    counts: Mapping[str, int]
    """Activations of every source over all epochs."""
    experts: Sequence[str]
    targets: Sequence[str]
    results: Sequence[Result]
    settings: Settings
    skipped: Sequence[str] = ()
    remarks: Sequence[str] = ()
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        return sorted({result.epoch for result in self.results})

    @property
    def unit(self) -> str:
        return UNITS[self.settings.kind]

    def of(self, target: str, epoch: int | None = None, pair: Pair | None = None) -> list[Result]:
        return [
            result
            for result in self.results
            if result.target == target
            and epoch in (None, result.epoch)
            and pair in (None, (result.first, result.second))
        ]
