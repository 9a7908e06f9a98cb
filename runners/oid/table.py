"""atoms.csv: a row for each atom of each pair, target and epoch; pairs not computed have one, which says why."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from runners.oid.decomposition import ATOMS, UNITS
from runners.oid.estimate import Result, Settings

HEAD = (
    *("epoch", "expert_i", "expert_j", "target", "basis", "common_rows", "used_rows", "samples", "rank"),
    *("explained_i", "explained_j", "explained_target", "smallest_eigenvalue", "singular"),
    *("redundancy", "kind", "unit", "atom", "of", "raw", "surrogate_mean", "surrogate_sd"),
    *("value", "z", "low", "high", "not_computed"),
)


def write_csv(path: Path, results: Iterable[Result], settings: Settings) -> None:
    """Numbers in full precision; empty where there is none."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEAD)
        for result in results:
            shared = [
                *(result.epoch, result.first, result.second, result.target, result.basis, result.found, result.rows),
                *(result.sequences, result.rank, *map(_number, result.explained), _number(result.eigenvalue)),
                *(int(result.singular), settings.redundancy, settings.kind, UNITS[settings.kind]),
            ]
            for name, value in result.values.items():
                numbers = (value.raw, value.null_mean, value.null_sd, value.value, value.z, value.low, value.high)
                rows.writerow([*shared, name, "atom" if name in ATOMS else "sum", *map(_number, numbers), ""])
            if result.problem:
                rows.writerow([*shared, *[""] * 9, result.problem])


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)
