"""The HTML of a plateau's analysis, from the numbers that `analysis.facts` gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from look.charts import Line, lines
from look.markup import document, folded, note, panel, paragraph, section, table, wide
from look.words import Words
from runners.supervise.metrics.curve import thinned

NUMBERS = "analysis.json"
FAMILIES = {
    "gradient_norm": "Gradient norms",
    "learning_rate": "Learning rate",
    "eval_loss": "Loss of evaluations",
    "drift": "Drift",
    "success": "Success",
}
"""Series with one of these names, or NAME/GROUP, with their heading."""
COLOURS = 8


def page(found: Mapping[str, Any], words: Words) -> str:
    """The HTML of `facts`."""
    title = words("The loss has stopped falling") if found["plateau"] else words("Has the loss stopped falling?")
    others = [_family(name, words(heading), found, words) for name, heading in FAMILIES.items()]
    body = [
        f"<h1>{escape(title)}</h1>",
        note(escape(_reason(found, words)), "warn" if found["plateau"] else "good"),
        section("loss", words("Loss")),
        *_loss(found, words),
        section("numbers", words("What was judged")),
        _judged(found, words),
        section("others", words("What else the run tells")),
        wide(part for part in others if part) if any(others) else paragraph(words("Nothing was recorded."), "quiet"),
        _summaries(found["others"], words),
        section("tried", words("What was tried")),
        _tried(found["tried"], words),
        paragraph(escape(words("All series and numbers: {file} beside this page.", file=NUMBERS)), "quiet"),
    ]
    return document(title, "\n".join(body), lang=words.lang)


def _reason(found: Mapping[str, Any], words: Words) -> str:
    """The verdict in words, each part a sentence of the language."""
    return {"en": "; ", "zh": "；"}[words.lang].join(words(label, **values) for label, values in found["said"])


def _points(found: Mapping[str, Any], name: str, since: float = -math.inf) -> list[tuple[float, float]]:
    points = [(float(step), value) for step, value in found["series"][name] if value is not None and step >= since]
    return thinned(points)


def _loss(found: Mapping[str, Any], words: Words) -> list[str]:
    """The whole course with the line that was fitted, and the window alone with the interval of its slope."""
    window, slope = found["window"], found["slope"]
    course = Line(words("loss"), [_points(found, "loss")], 0)
    if window is None:
        return [lines([course], words("Loss"), words("loss"), words=words)]
    ends = [(step, step - window["middle"]) for step in (window["first"], window["middle"], window["last"])]
    fitted = [(step, window["level"] + slope["is"] * off) for step, off in ends]
    bounds = [[window["level"] + slope[bound] * off for bound in ("low", "high")] for _, off in ends]
    band = [(step, min(pair), max(pair)) for (step, _), pair in zip(ends, bounds, strict=True)]
    line = Line(words("fit"), [fitted], 1, band)
    near = Line(words("loss"), [_points(found, "loss", window["first"])], 0)
    across = words("Loss from step {first} to {last}", first=window["first"], last=window["last"])
    whole = lines([course, line], words("Loss"), words("loss"), words=words)
    close = lines([near, line], across, words("loss"), words=words, zero=False)
    return [
        wide([panel(words("The whole run"), whole), panel(words("The window that was judged"), close)]),
        paragraph(
            escape(
                words("The line has the fitted slope, its band the interval. On the right, axes do not begin at zero.")
            ),
            "quiet",
        ),
    ]


def _judged(found: Mapping[str, Any], words: Words) -> str:
    window, slope, loss = found["window"], found["slope"], found["loss"]
    nothing = words("not known")

    def said(value: float | None, scale: float = 1.0) -> str:
        return nothing if value is None else f"{scale * value:.4g}"

    rows = [
        (words("step of the verdict"), str(found["step"])),
        (
            words("steps that were judged"),
            words("{first} to {last}, {rows} values of the loss", **window) if window else nothing,
        ),
        (words("slope, loss per 1000 steps"), said(slope["is"], 1e3)),
        (
            words("interval of the slope"),
            words("{low} to {high}", low=said(slope["low"], 1e3), high=said(slope["high"], 1e3)),
        ),
        (words("statistic"), said(found["statistic"])),
        (words("p value"), words("{p}, to be below {level}", p=said(found["p"]), level=said(found["level"]))),
        (words("loss in the middle of the window"), said(window["level"]) if window else nothing),
        (words("last loss"), said(loss["last"])),
        (
            words("lowest loss"),
            words("{loss} at step {step}", loss=said(loss["lowest"]), step=loss["lowest_step"])
            if loss["lowest"] is not None
            else nothing,
        ),
    ]
    if loss["not_finite"]:
        rows.append((words("losses that are no number"), str(loss["not_finite"])))
    return table([words("what"), words("value")], [(escape(name), escape(value)) for name, value in rows])


def _group(name: str) -> str:
    """The part of a series' name behind its family's."""
    return name.partition("/")[2]


def _family(family: str, heading: str, found: Mapping[str, Any], words: Words) -> str:
    """The chart of all series of a family; the shortest names where there are more than colours."""
    names = sorted(
        (name for name in found["others"] if name.split("/")[0] == family), key=lambda name: (len(name), name)
    )
    if not names:
        return ""
    drawn = [
        Line(_group(name) or heading, [_points(found, name)], 1 + place if place < COLOURS - 1 else 0)
        for place, name in enumerate(names[:COLOURS])
    ]
    chart = lines(drawn, heading, "", words=words)
    if len(names) > COLOURS:
        left = words("{count} further series are in the table below.", count=len(names) - COLOURS)
        chart += paragraph(escape(left), "quiet")
    return panel(heading, chart)


def _summaries(others: Mapping[str, Mapping[str, float | None]], words: Words) -> str:
    if not others:
        return ""
    head = ("series", "median before the window", "median in the window", "last value")
    rows = []
    for name, found in others.items():
        values = [found[each] for each in ("before", "inside", "last")]
        rows.append([f"<code>{escape(name)}</code>", *("" if value is None else f"{value:.4g}" for value in values)])
    return folded(escape(words("Medians and last values of all series")), table([words(name) for name in head], rows))


def _tried(tried: Sequence[Mapping[str, Any]], words: Words) -> str:
    if not tried:
        return paragraph(escape(words("Nothing was tried yet.")), "quiet")
    rows = [
        (
            f"<b>{escape(each['name'])}</b>" if each["better"] else escape(each["name"]),
            "<br>".join(f"<code>{escape(f'{name}={value}')}</code>" for name, value in each["changes"].items()),
            "" if each["loss"] is None else f"{each['loss']:.4g}",
            "" if each["step"] is None else str(each["step"]),
            escape(each["why"]),
        )
        for each in tried
    ]
    return table([words(name) for name in ("name", "changes", "loss", "up to step", "outcome")], rows)
