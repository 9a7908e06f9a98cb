"""atoms.csv: a row for each atom of each pair, target and epoch; pairs not computed have one, which says why."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from runners.oid.decomposition import ATOMS, UNITS
from runners.oid.estimate import Result, Settings, Value

HEAD = (
    *("epoch", "expert_i", "expert_j", "target", "basis", "common_rows", "used_rows", "samples", "rank"),
    *("explained_i", "explained_j", "explained_target", "smallest_eigenvalue", "singular"),
    *("redundancy", "kind", "unit", "atom", "of", "raw", "surrogate_mean", "surrogate_sd"),
    *("value", "z", "low", "high", "not_computed"),
)

NUMBERS = ("raw", "surrogate_mean", "surrogate_sd", "value", "low", "high")


def csv_text(results: Iterable[Result], settings: Settings) -> str:
    """Numbers in full precision; empty where there is none."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
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
    return text.getvalue()


def read_csv(path: Path) -> list[Result]:
    """The results of an atoms.csv, as `csv_text` wrote them. Raises OSError where it is not there."""
    found: dict[tuple[str, ...], Result] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in HEAD[:4])
            if key not in found:
                found[key] = Result(
                    int(key[0]),
                    *key[1:4],
                    basis=row["basis"],
                    found=int(row["common_rows"]),
                    rows=int(row["used_rows"]),
                    sequences=int(row["samples"]),
                    rank=int(row["rank"]),
                    explained=(_read(row["explained_i"]), _read(row["explained_j"]), _read(row["explained_target"])),
                    eigenvalue=_read(row["smallest_eigenvalue"]),
                    singular=row["singular"] == "1",
                    problem=row["not_computed"],
                )
            if row["atom"]:
                z = float(row["z"]) if row["z"] else None
                raw, *null, value, low, high = (_read(row[name]) for name in NUMBERS)
                found[key].values[row["atom"]] = Value(raw, null[0], null[1], value, z, low, high)
    return list(found.values())


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _read(text: str) -> float:
    return float(text) if text else math.nan
