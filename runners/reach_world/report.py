"""The comparison as one HTML file that loads nothing: tables, intervals, courses, and the animation."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from look import charts
from look.markup import document, notes, panel, paragraph, section, table, values, wide
from look.words import ENGLISH, Words
from runners.means import in_words, number
from runners.reach_world.results import Results


def page(results: Results, films: Mapping[str, bytes], remarks: tuple[str, ...] = (), words: Words = ENGLISH) -> str:
    """The report. `films` maps a caption to a WebP animation; `remarks` are shown on top (what stood in, what is
    missing).
    """
    body = [
        f"<h1>{words('SA-GR Flow in the closed loop')}</h1>",
        paragraph(
            words("""A tool must touch the object that the instruction names. In the world <b>moved</b> that object is
            moved in the middle of a chunk; in <b>offset</b> the tip is not where the robot believes it to be. Means and
            95 % t-intervals over training seeds.""")
        ),
        notes(words("To know"), [words.of(line) for line in remarks], "warn"),
        section("success", words("Success")),
        success_table(results, words),
        wide(success_chart(results, world, words) for world in results.worlds),
        section("recovery", words("Recovery and control rate")),
        rate_table(results, words, wrong=True),
        wide(distance_chart(results, world, words) for world in results.worlds),
        section("film", words("The same episode under several arms")),
        *(_film(caption, content) for caption, content in films.items()),
        section("arms", words("Arms and settings")),
        arms(results, words),
    ]
    return document(words("SA-GR Flow: the closed loop"), "\n".join(body), lang=words.lang)


def arms(results: Results, words: Words) -> str:
    """What each arm is, and what was set."""
    says = [(f"<b>{escape(arm)}</b>", escape(words.of(results.says[arm]))) for arm in results.arms]
    return table((words("arm"), words("what it is")), says) + values(
        (words("setting"), words("value")), results.settings
    )


def success_table(results: Results, words: Words) -> str:
    """Success by arm and world, and what each arm wins back of the first arm's loss."""
    disturbed = [world for world in results.worlds if world != "calm"]
    recovered = (words("recovered of what {world} costs", world=world) for world in disturbed)
    rows = []
    for arm in results.arms:
        success = [in_words(results.mean(arm, world, "success"), words) for world in results.worlds]
        won = [
            in_words(results.recovered(arm, world), words) if arm != (results.compared or results.arms[0]) else ""
            for world in disturbed
        ]
        rows.append([f"<b>{escape(arm)}</b>", *success, *won])
    return table([words("arm"), *results.worlds, *recovered], rows)


RATES = {
    "steps": "steps to success",
    "recovery_steps": "steps from the move to success",
    "interruptions": "queues cleared an episode",
    "sampling_ms": "a sampling step, ms",
    "control_hz": "control steps a second",
}
"""Figures that are no shares, by their names in `Results`."""


def rate_table(results: Results, words: Words, *, wrong: bool = False) -> str:
    """Steps, recovery, interruptions and wall time in every world; with `wrong` the share of wrong objects too."""
    head = ["arm", "world", *(["wrong object"] if wrong else []), *RATES.values()]
    rows = []
    for arm in results.arms:
        for world in results.worlds:
            touched = [number(results.mean(arm, world, "wrong"), words, unit=" %", scale=100)] if wrong else []
            found = [number(results.mean(arm, world, name), words) for name in RATES]
            rows.append([f"<b>{escape(arm)}</b>", escape(world), *touched, *found])
    return table([words(name) for name in head], rows)


def success_chart(results: Results, world: str, words: Words) -> str:
    bars = [
        charts.Bar(arm, mean.mean, mean.half, list(results.values(arm, world, "success").values()), colour % 8)
        for colour, arm in enumerate(results.arms)
        if (mean := results.mean(arm, world, "success")) is not None
    ]
    title = words("Success in the world {world}", world=world)
    return panel(title, charts.intervals(bars, title, words("share of episodes"), words=words))


def distance_chart(results: Results, world: str, words: Words) -> str:
    series = [charts.Line(arm, [results.distances(arm, world)], colour % 8) for colour, arm in enumerate(results.arms)]
    title = words("Distance from tip to target in the world {world}", world=world)
    unit, across = words("cm, mean over episodes"), words("control step")
    return panel(title, charts.lines(series, title, unit, across, words=words))


def _film(caption: str, content: bytes) -> str:
    data = base64.b64encode(content).decode("ascii")
    image = f'<img class="film" alt="{escape(caption)}" src="data:image/webp;base64,{data}">'
    return f"{paragraph(escape(caption))}{paragraph(image)}"
