"""One row of metrics, under names that are the same for all upstreams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runners.supervise.tables import read_toml

TABLE = Path(__file__).resolve().parent / "names.toml"
# Python's and wandb's JSON write these as words, the latter in quotes.
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class Row:
    """What was measured at one optimizer step.

    `values`: by the names of names.toml, else by upstream's own; also NaN and infinities. `wall`: seconds since 1970,
    where the file says when. `source`: the pattern whose files it is from.
    """

    step: int
    values: Mapping[str, float]
    wall: float | None = None
    source: str = ""


@cache
def _table() -> tuple[tuple[re.Pattern[str], ...], tuple[tuple[re.Pattern[str], str], ...]]:
    found = read_toml(TABLE)
    steps = tuple(re.compile(each) for each in found["steps"])
    return steps, tuple((re.compile(key), name) for key, name in found["names"])


@cache
def _name(key: str) -> tuple[int, str] | None:
    """The line of the table that knows `key`, and the name there."""
    for place, (pattern, name) in enumerate(_table()[1]):
        if match := pattern.fullmatch(key):
            return place, match.expand(name)
    return None


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by path; strings, lists and booleans are settings or traces, no metrics."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield before + key, float(value)
        elif isinstance(value, str) and value in NOT_FINITE:
            yield before + key, NOT_FINITE[value]


def named(numbers: Mapping[str, float]) -> dict[str, float]:
    """The same numbers under the names of names.toml. `learning_rate` is the highest of several groups' rates."""
    # transformers ends a training with the mean loss of all of it, as `train_loss`: no point of the curve.
    summary = "train_runtime" in numbers
    known = {key: _name(key) for key in numbers if not (summary and key == "train_loss")}
    order = sorted((found, key) for key, found in known.items() if found is not None)
    taken: dict[str, str] = {}
    for (_, name), key in order:
        taken.setdefault(name, key)
    back = {key: name for name, key in taken.items()}
    values = {back.get(key, key): value for key, value in numbers.items()}
    rates = [value for name, value in values.items() if name.startswith("learning_rate/")]
    if rates:
        values.setdefault("learning_rate", max(rates))
    return values


def row_of(values: Mapping[str, Any], wall: float | None = None, step: int | None = None) -> Row | None:
    """The row of what an upstream wrote, at `step` or at the one that is written there; None where there is none."""
    numbers = dict(_numbers(values))
    stepped = [key for pattern in _table()[0] for key in numbers if pattern.fullmatch(key)]
    if stepped:
        step = int(numbers[stepped[0]])
    if step is None:
        return None
    return Row(step, named({key: value for key, value in numbers.items() if key not in stepped}), wall)
