"""The page of a supervised run: how it stands, every attempt with its end and remedy, every other decision."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from look.charts import Line, lines
from look.markup import document, note, paragraph, section, table
from look.words import Words
from runners.digests import write_whole
from runners.room import in_words, size_of
from runners.supervise import checkpoints
from runners.supervise.causes import Cause
from runners.supervise.command import Command, Family
from runners.supervise.decisions import Decisions
from runners.supervise.loop import DONE, INTERRUPTED, PAUSED, STOPPED, Result
from runners.supervise.masking import hidden
from runners.supervise.metrics.curve import Curve
from runners.supervise.watching import history

PAGE = "report.html"
KINDS = {DONE: "good", STOPPED: "bad", PAUSED: "warn", INTERRUPTED: "warn", "": "warn"}
STATES = {
    DONE: "The run is done.",
    STOPPED: "The run was stopped: no remedy is left.",
    PAUSED: "The run is paused at a checkpoint.",
    INTERRUPTED: "The run was ended on request; the same command goes on.",
    "": "The run goes on, or its supervisor was killed; the same command goes on.",
}
BEST = "best"
"""The folder of what came after the trials of --auto-tune (session.py)."""
POINTS = 1500
"""More points than a chart has pixels make a page heavy and show nothing more."""


def write(folder: Path, command: Command, decisions: Decisions, causes: Sequence[Cause], lang: str) -> Path:
    """Writes `report.html` into `folder` and returns its path."""
    words = Words(lang)
    curves, output = {words("loss"): history(decisions.all)}, command.output
    best = Decisions(folder / BEST).all if (folder / BEST).is_dir() else []
    if attempts := [item for item in best if item["kind"] == "attempt"]:
        name = next((item["best"] for item in reversed(decisions.all) if item["kind"] == "tuned"), BEST)
        curves[str(name)], output = history(best), Path(attempts[-1]["output"])
    state = decisions.state
    why = next((item["why"] for item in reversed(decisions.all) if item["kind"] in ("end", "stop")), "")
    body = [
        f"<h1>{escape(words('A supervised run'))}</h1>",
        paragraph(f"<code>{escape(command.shown())}</code>"),
        note(f"{escape(words(STATES[state.ended]))} {escape(why)}", KINDS[state.ended]),
        paragraph(
            escape(words("Output: {output}. Log, decisions and this page: {folder}.", output=output, folder=folder))
        ),
        section("attempts", words("Attempts")),
        table(
            [words(name) for name in ("attempt", "began (UTC)", "from", "died of", "lines of the log", "remedy")],
            rows(decisions.all, {cause.name: cause for cause in causes}, words),
        ),
        *_settings(state.settings, state.environment, words),
        *_aside(command, words),
        section("curve", words("Loss")),
        _chart(curves, words),
        *_others(decisions.all, words),
    ]
    path = folder / PAGE
    page = document(f"{words('A supervised run')}: {command.output.name}", "\n".join(body), lang=lang)
    write_whole(path, hidden(page))
    return path


def rows(decisions: Sequence[Mapping[str, Any]], causes: Mapping[str, Cause], words: Words) -> list[list[str]]:
    """One row an attempt: what was decided until the next one begins belongs to it."""
    begun = [index for index, item in enumerate(decisions) if item["kind"] == "attempt"]
    found = []
    for first, last in pairwise([*begun, len(decisions)]):
        attempt, after = decisions[first], decisions[first + 1 : last]
        died = next((item for item in after if item["kind"] in ("remedy", "stop")), None)
        ended = next((item for item in after if item["kind"] == "end"), None)
        cause = causes.get(died["cause"]) if died else None
        reason = (
            (cause.says_zh if words.lang == "zh" else cause.says) if cause else words("unknown cause") if died else ""
        )
        what = died["why"] if died and died["kind"] == "remedy" else words(ended["state"]) if ended else ""
        quoted = "\n".join(died["lines"]) if died else ""
        found.append(
            [
                str(attempt["attempt"]),
                escape(attempt["time"][:19].replace("T", " ")),
                escape(Path(attempt["begun"]).name if attempt["begun"] else words("the beginning")),
                escape(reason),
                f"<details><summary>{len(died['lines'])}</summary><pre>{escape(quoted)}</pre></details>"
                if quoted and died
                else "",
                escape(what),
            ]
        )
    return found


def _settings(settings: Mapping[str, str], environment: Mapping[str, str], words: Words) -> list[str]:
    both = {**settings, **environment}
    if not both:
        return []
    shown = [(f"<code>{escape(name)}</code>", f"<code>{escape(value)}</code>") for name, value in both.items()]
    return [
        section("settings", words("What stands over the command now")),
        table([words("setting"), words("value")], shown),
    ]


def _aside(command: Command, words: Words) -> list[str]:
    """What was moved aside takes room, and nobody else says so."""
    found = checkpoints.aside(command)
    if not found:
        return []
    room = in_words(sum(size_of(item.path) for item in found))
    names = ", ".join(item.path.name for item in found)
    said = words(
        "{count} checkpoints were moved aside and take {room}: {names}", count=len(found), room=room, names=names
    )
    return [note(escape(said), "warn")]


def _chart(curves: Mapping[str, Curve], words: Words) -> str:
    """The loss of the run, and of the best of its trials to the end."""
    drawn = []
    for number, (name, curve) in enumerate(curves.items(), 1):
        points = [(float(step), value) for step, value in curve.series("loss") if math.isfinite(value)]
        if points:
            drawn.append(Line(name, [points[:: max(1, len(points) // POINTS)]], number))
    if not drawn:
        return paragraph(words("Nothing was recorded."), "quiet")
    return lines(drawn, words("Loss"), words("loss"), words=words)


def _others(decisions: Sequence[Mapping[str, Any]], words: Words) -> list[str]:
    kinds = ("room", "plateau", "trial", "control", "tuned", "afresh", "interrupted")
    others = [item for item in decisions if item["kind"] in kinds]
    if not others:
        return []
    shown = [
        (
            escape(item["time"][:19].replace("T", " ")),
            escape(words(item["kind"])),
            escape(f"{item['name']}: {item['why']}" if "name" in item else item["why"]),
        )
        for item in others
    ]
    return [section("others", words("Other decisions")), table([words("time"), words("decision"), words("why")], shown)]


def closing(result: Result, lang: str) -> list[str]:
    """What a person is told at the end of a run that did not end well."""
    if result.state != STOPPED:
        return []
    told = [f"{number or '-':>8}  {text}" for number, text in result.lines]
    if result.advice is not None:
        told.append(result.advice.advice_zh if lang == "zh" else result.advice.advice)
    return told


def listing(causes: Sequence[Cause], known: Sequence[Family], lang: str) -> str:
    """The tables, as text for a terminal."""
    told = []
    for cause in causes:
        told.append(f"{cause.name}: {cause.says_zh if lang == 'zh' else cause.says}")
        told.append(
            "    " + ", ".join(f"{item.name} ({item.limit}x)" if item.limit else item.name for item in cause.remedies)
        )
        advice = cause.advice_zh if lang == "zh" else cause.advice
        told += textwrap.wrap(advice, 110, initial_indent="    ", subsequent_indent="    ")
    told.append("")
    for family in known:
        told.append(f"{family.name}: {', '.join(family.match)}; a resume restores {family.restores}")
    return "\n".join(told)
