"""What the report on digits draws: bars, courses over time, shares of experts, pictures of the Omega-ID analysis."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from look import charts
from look.markup import folded, panel, paragraph, wide
from look.words import Words
from runners.digits.data import TASKS
from runners.digits.keep import Arm
from runners.digits.results import WORDS, Results, course, name_of
from runners.digits.training import ROUTERS


@dataclass(frozen=True)
class Picture:
    """An SVG of the Omega-ID analysis, which brings its own style, and what it shows."""

    caption: str
    svg: str


def bars(results: Results, measure: str, words: Words) -> str:
    rows = []
    for arm in results.arms:
        mean, scale = results.mean(arm, measure), 100
        half = None if mean.half is None else scale * mean.half
        values_of = [scale * value for value in results.values(arm, measure)]
        rows.append(charts.Bar(name_of(arm), scale * mean.mean, half, values_of, 1 + ROUTERS.index(arm[1])))
    title = words(WORDS[measure])
    return panel(title.capitalize(), charts.intervals(rows, title, words("percent"), words=words))


def courses(results: Results, arm: Arm, words: Words) -> str:
    runs = [results.runs[arm][seed] for seed in results.seeds]
    tests = {task: [run["test"][task] for run in runs] for task in TASKS}
    places = [results.settings.test_every * number for number in range(len(tests[TASKS[0]][0]))]
    return _over_time(arm, places, tests, words("accuracy"), words)


def integrity(results: Results, arm: Arm, words: Words) -> str:
    runs = [results.runs[arm][seed] for seed in results.seeds]
    # At the choices after which every arm is validated.
    places = [entry["epoch"] for entry in runs[0]["history"][TASKS[0]]]
    places = [epoch for epoch in places if epoch % results.settings.test_every == 0]
    seen = {
        task: [[entry["avg_pi"] for entry in run["history"][task] if entry["epoch"] in places] for run in runs]
        for task in TASKS
    }
    return _over_time(arm, places, seen, "PI", words)


def _over_time(
    arm: Arm, places: Sequence[float], seen: Mapping[str, Sequence[Sequence[float]]], unit: str, words: Words
) -> str:
    """Means over seeds with their intervals; `seen`: by task and run, a value for each of `places`."""
    series = []
    for colour, (task, runs) in enumerate(seen.items(), 1):
        found = course(places, runs)
        band = [(x, max(0.0, m.mean - m.half), min(1.0, m.mean + m.half)) for x, m in found if m.half is not None]
        series.append(charts.Line(task, [[(x, m.mean) for x, m in found]], colour, band))
    title = words("{unit} over choices, {arm}", unit=unit, arm=name_of(arm))
    return panel(name_of(arm), charts.lines(series, title, unit, words("choices"), words=words))


def experts(results: Results, arm: Arm, words: Words) -> str:
    maps = []
    for seed in results.seeds:
        found = results.runs[arm][seed]["experts"]
        rows = {task: found[task][-1] for task in TASKS}
        title = words("Percent of choices by task and expert, {arm}, seed {seed}", arm=name_of(arm), seed=seed)
        colours = [1 + ROUTERS.index(arm[1])] * len(rows)
        drawn = charts.shares(rows, [str(e) for e in range(len(rows[TASKS[0]]))], title, colours)
        maps.append(paragraph(words("Percent, seed {seed}", seed=seed)) + drawn)
    others = folded(words("The other seeds"), "".join(maps[1:])) if maps[1:] else ""
    return panel(name_of(arm), maps[0] + others)


def oid(pictures: Sequence[Picture], words: Words) -> str:
    if not pictures:
        return paragraph(words("Not analysed in this run."), "quiet")
    says = words("""The most active experts of the last block, evaluated on the same tokens, about the tokens that the
    classifier averages; surrogates subtracted, colours on one scale. Seed of the runs: the first. All atoms and courses
    are in <code>oid_plots</code> beside the runs.""")
    parts = []
    for picture in pictures:
        data = base64.b64encode(picture.svg.encode()).decode("ascii")
        shown = f'<img class="oid" alt="{escape(picture.caption)}" src="data:image/svg+xml;base64,{data}"/>'
        parts.append(panel(picture.caption, shown))
    return paragraph(says) + wide(parts)
