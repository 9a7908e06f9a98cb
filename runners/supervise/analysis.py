"""The page of a run whose loss has stopped falling: what was judged, what else the run tells, what was tried.

One HTML file that loads nothing, and analysis.json with the same numbers and the whole series.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from look.words import Words
from runners.digests import write_whole
from runners.supervise.analysis_page import FAMILIES, NUMBERS, page
from runners.supervise.metrics.curve import Curve

PAGE = "analysis.html"


class Verdict(Protocol):
    """What is read of `plateau.Verdict`. Slopes, also the interval's bounds, in loss per optimizer step; NaN: unknown.

    `since` and `step`: the first and the last step of the window that was judged.
    """

    @property
    def plateau(self) -> bool: ...
    @property
    def step(self) -> int: ...
    @property
    def since(self) -> int: ...
    @property
    def slope(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def statistic(self) -> float: ...
    @property
    def p(self) -> float: ...
    @property
    def level(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def said(self) -> list[tuple[str, dict[str, str]]]: ...


def write(
    folder: Path, curve: Curve, verdict: Verdict, tried: Sequence[Mapping[str, Any]] = (), lang: str = "en"
) -> Path:
    """Writes analysis.html and analysis.json into `folder`, and returns the path of the page.

    Args:
        curve: of the run so far.
        verdict: what the test said of it: slopes in loss per optimizer step.
        tried: changes of the run that were tried before, as `tune.judgement` describes them: name, changes (setting:
            value), why (the outcome), better, and where they were judged loss (its mean at the end) and step.
        lang: of the page.
    """
    found = facts(curve, verdict, tried)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / NUMBERS, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(folder / PAGE, page(found, Words(lang)))
    return folder / PAGE


def facts(curve: Curve, verdict: Verdict, tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every number of the page, and the series, as JSON has them: None for what is not finite."""
    loss = curve.series("loss")
    finite = [(step, value) for step, value in loss if math.isfinite(value)]
    lowest = min(finite, key=lambda point: point[1], default=(None, None))
    names = [name for name in curve.names if name.split("/")[0] in FAMILIES]
    shown = {name: curve.series(name) for name in sorted(names, key=_order)}
    return {
        "plateau": verdict.plateau,
        "step": verdict.step,
        "reason": verdict.reason,
        "said": [list(part) for part in verdict.said],
        "slope": {
            name: _number(getattr(verdict, at)) for name, at in (("is", "slope"), ("low", "low"), ("high", "high"))
        },
        "statistic": _number(verdict.statistic),
        "p": _number(verdict.p),
        "level": _number(verdict.level),
        "window": _window(finite, verdict),
        "loss": {
            "last": finite[-1][1] if finite else None,
            "lowest": lowest[1],
            "lowest_step": lowest[0],
            "not_finite": len(loss) - len(finite),
        },
        "others": {name: _summary(points, verdict) for name, points in shown.items()},
        "tried": [_trial(each) for each in tried],
        "series": {
            name: [[step, _number(value)] for step, value in points] for name, points in {"loss": loss, **shown}.items()
        },
    }


def _order(name: str) -> list[tuple[str, int]]:
    """By family and group, numbers in a name as numbers."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _window(loss: Sequence[tuple[int, float]], verdict: Verdict) -> dict[str, Any] | None:
    """The stretch that was judged, and the line of the verdict's slope through the middle of its losses.

    `level`: the line's height at `middle`, the mean step; half of the losses lie above the line. None where nothing
    was judged.
    """
    inside = [point for point in loss if verdict.since <= point[0] <= verdict.step]
    if not inside or not math.isfinite(verdict.slope):
        return None
    middle = math.fsum(step for step, _ in inside) / len(inside)
    level = statistics.median(value - verdict.slope * (step - middle) for step, value in inside)
    return {"first": inside[0][0], "last": inside[-1][0], "rows": len(inside), "middle": middle, "level": level}


def _summary(points: Sequence[tuple[int, float]], verdict: Verdict) -> dict[str, Any]:
    """The last value, and the median before the window that was judged and in it."""
    before = [value for step, value in points if step < verdict.since and math.isfinite(value)]
    inside = [value for step, value in points if step >= verdict.since and math.isfinite(value)]
    return {
        "last": _number(points[-1][1]),
        "before": statistics.median(before) if before else None,
        "inside": statistics.median(inside) if inside else None,
    }


def _trial(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": record["name"],
        "changes": {str(name): value for name, value in record["changes"].items()},
        "loss": record.get("loss"),
        "step": record.get("step"),
        "better": bool(record.get("better")),
        "why": record["why"],
    }
