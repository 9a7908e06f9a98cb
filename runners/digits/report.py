"""The comparison on digits as one HTML file that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from runners import charts
from runners.digits.data import TASKS
from runners.digits.keep import Arm
from runners.digits.results import DECIDED, MEASURES, SAYS, WORDS, Results, course, decided, name_of
from runners.digits.training import ROUTERS
from runners.intervals import Mean, mean_of
from runners.markup import document, table
from runners.openvla_report import notes

PERCENT = ("final", "worst", "forgetting")
STYLE = """
.strip { display: flex; gap: 2px; flex-wrap: wrap; }
.strip span { width: .8rem; height: 1.1rem; border-radius: 2px; background: var(--colour); }
.strip .review, .strip .cycle { border: 3px solid var(--ink); }
.strip .cycle { border-style: none none solid; }
.oid { max-width: 26rem; width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Picture:
    """An SVG of the Omega-ID analysis, which brings its own style, and what it shows."""

    caption: str
    svg: str


def page(results: Results, pictures: Sequence[Picture] = (), remarks: Sequence[str] = ()) -> str:
    """The report; `remarks` stand on top (what was not analysed and why)."""
    settings = [(escape(k), f"<code>{escape(str(v))}</code>") for k, v in vars(results.settings).items()]
    made = [(escape(k), f"<code>{escape(str(v))}</code>") for k, v in results.made_with.items()]
    says = [(f"<b>{escape(word)}</b>", escape(what)) for word, what in SAYS.items()]
    body = f"""<h1>Digits in four tasks: schedules and experts</h1>
<p>A small vision transformer with a mixture of experts learns the digits 0 to 4 (<b>low</b>), 5 to 9 (<b>high</b>), all
digits turned by a quarter (<b>rotated</b>) and all digits dark on light (<b>inverted</b>). Schedules and routings are
compared, all with the same number of steps; nothing tells the model which task an image is from. Means and 95 %
t-intervals over seeds ({escape(", ".join(map(str, results.seeds)))}). Accuracies are on test images that neither
training nor schedule saw; PI and experts used are on the validation images by which the schedule decides.</p>
{notes("To know", list(remarks), "warn")}
<nav><a href="#end">at the end</a> <a href="#against">against each other</a> <a href="#time">over time</a>
<a href="#schedule">what was chosen</a> <a href="#pi">PI</a> <a href="#experts">experts</a> <a href="#oid">Omega-ID</a>
<a href="#made">settings</a></nav>
<h2 id="end">At the end</h2>
<p>Forgetting: the best test accuracy before the last test minus the last one, mean over tasks (Chaudhry et al. 2018);
below zero, tasks are best known at the end. Experts used: exp of the entropy of their shares, 1 is one expert alone.
Tasks apart: total variation between two tasks' shares of the experts, 0 where all use them alike.</p>
{_end(results)}
<div class="wide">{"".join(_bars(results, measure) for measure in ("final", "forgetting"))}</div>
{table(("word", "what it is"), says)}
<h2 id="against">Against each other</h2>
<p>Differences seed by seed: both sides had the same images and the same first weights. Bold where the interval leaves
out 0: of {len(results.comparisons()) * len(MEASURES)} differences one in twenty would by chance.</p>
{_against(results)}
<h2 id="time">Accuracy over time</h2>
<p>On the test images. Means over seeds; bands are 95 % t-intervals, cut at 0 and 1.</p>
{_wide(_courses(results, arm) for arm in results.arms)}
<h2 id="schedule">What the schedule chose</h2>
{_chosen(results)}
<h2 id="pi">Predictive integrity over time</h2>
<p>On the validation images; 1: a loss of nothing, and no gradient left. Means and bands as above.</p>
{_wide(_integrity(results, arm) for arm in results.arms)}
<h2 id="experts">Experts used</h2>
<p>Share of a task's choices that went to each expert at the end, in the last block. An expert's number means another
expert in every seed, so no mean is taken; how many are used, and how differently by task, has intervals above.</p>
{_wide(_experts(results, arm) for arm in results.arms)}
<h2 id="oid">What pairs of experts tell about the output</h2>
{_oid(pictures)}
<h2 id="made">Settings and versions</h2>
<p>Rate, steps, choices and the schedule's policy were chosen on seed 100 with the linear gate, before any reported seed
was run, from few trials: a rate that falls to 0, without which rounds and dynamic end wherever the last task left them;
policy need over progress, and over need without PI or with a shorter wait. Of seven sets of thresholds these ended
best there (84.7 %, the others 83.4 to 84.6), with reviews and with turns over all tasks when all were grokked.</p>
{table(("setting", "value"), settings)}{table(("part", "version"), made)}"""
    return document("Digits: schedules and experts", body, STYLE)


def _wide(parts: Iterable[str]) -> str:
    return f'<div class="wide">{"".join(parts)}</div>'


def in_words(mean: Mean, measure: str, *, signed: bool = False) -> str:
    """A mean with its interval, percents where the measure is a share of images."""
    scale, digits = (100, 1) if measure in PERCENT else (1, 2)
    around = "" if mean.half is None else f" ± {scale * mean.half:.{digits}f}"
    return f"{scale * mean.mean:{'+' if signed else ''}.{digits}f}{around}{' %' if measure in PERCENT else ''}"


def _end(results: Results) -> str:
    rows = [
        [f"<b>{escape(name_of(arm))}</b>", *(in_words(results.mean(arm, measure), measure) for measure in MEASURES)]
        for arm in results.arms
    ]
    return table(("schedule, routing", *WORDS.values()), rows)


def _against(results: Results) -> str:
    rows = []
    for words, arm, other in results.comparisons():
        cells = []
        for measure in MEASURES:
            found = results.difference(arm, other, measure)
            shown = in_words(found, measure, signed=True)
            cells.append(f"<b>{shown}</b>" if found.half is not None and abs(found.mean) > found.half else shown)
        rows.append([escape(words), *cells])
    return table(("first minus second", *WORDS.values()), rows)


def _bars(results: Results, measure: str) -> str:
    bars = []
    for arm in results.arms:
        mean, scale = results.mean(arm, measure), 100
        half = None if mean.half is None else scale * mean.half
        values = [scale * value for value in results.values(arm, measure)]
        bars.append(charts.Bar(name_of(arm), scale * mean.mean, half, values, 1 + ROUTERS.index(arm[1])))
    title = WORDS[measure]
    return f"<div><h3>{escape(title.capitalize())}</h3>{charts.intervals(bars, title, 'percent')}</div>"


def _courses(results: Results, arm: Arm) -> str:
    runs = [results.runs[arm][seed] for seed in results.seeds]
    tests = {task: [run["test"][task] for run in runs] for task in TASKS}
    places = [results.settings.test_every * number for number in range(len(tests[TASKS[0]][0]))]
    return _over_time(arm, places, tests, "accuracy")


def _integrity(results: Results, arm: Arm) -> str:
    runs = [results.runs[arm][seed] for seed in results.seeds]
    # At the choices after which every arm is validated.
    places = [entry["epoch"] for entry in runs[0]["history"][TASKS[0]]]
    places = [epoch for epoch in places if epoch % results.settings.test_every == 0]
    seen = {
        task: [[entry["avg_pi"] for entry in run["history"][task] if entry["epoch"] in places] for run in runs]
        for task in TASKS
    }
    return _over_time(arm, places, seen, "PI")


def _over_time(arm: Arm, places: Sequence[float], seen: Mapping[str, Sequence[Sequence[float]]], unit: str) -> str:
    """Means over seeds with their intervals; `seen`: by task and run, a value for each of `places`."""
    series = []
    for colour, (task, runs) in enumerate(seen.items(), 1):
        found = course(places, runs)
        band = [(x, max(0.0, m.mean - m.half), min(1.0, m.mean + m.half)) for x, m in found if m.half is not None]
        series.append(charts.Line(task, [[(x, m.mean) for x, m in found]], colour, band))
    drawn = charts.lines(series, f"{unit} over choices, {name_of(arm)}", unit, "choices")
    return f"<div><h3>{escape(name_of(arm))}</h3>{drawn}</div>"


def _chosen(results: Results) -> str:
    if not results.asking:
        return '<p class="quiet">No arm was run whose schedule decides.</p>'
    legend = "".join(f'<li><span class="swatch series{n}"></span>{task}</li>' for n, task in enumerate(TASKS, 1))
    strips, counts = [], []
    for arm in results.asking:
        for seed in results.seeds:
            run = results.runs[arm][seed]
            strip = "".join(
                f'<span class="{each["kind"]} series{1 + TASKS.index(each["task"])}" '
                f'title="{escape("{task}, {kind}: {reason}".format_map(each))}"></span>'
                for each in run["decided"]
            )
            strips.append([escape(name_of(arm)), str(seed), f'<div class="strip">{strip}</div>'])
        every = [decided(results.runs[arm][seed]) for seed in results.seeds]
        found = (mean_of([one[word] for one in every]) for word in DECIDED)
        counts.append([f"<b>{escape(name_of(arm))}</b>", *(in_words(mean, "decided") for mean in found)])
    words = f"""A task is grokked while its last evaluations lie above both thresholds and are stable. Counts are of a
run's {results.settings.choices} choices, mean over seeds. In the courses a frame is a review, and a line below is a
choice made while all tasks were grokked."""
    return (
        f"<p>{words}</p>{table(('schedule, routing', *DECIDED.values()), counts)}"
        f'<ul class="legend">{legend}</ul>{table(("schedule, routing", "seed", "choices, first to last"), strips)}'
    )


def _experts(results: Results, arm: Arm) -> str:
    maps = []
    for seed in results.seeds:
        found = results.runs[arm][seed]["experts"]
        rows = {task: found[task][-1] for task in TASKS}
        title = f"Percent of choices by task and expert, {name_of(arm)}, seed {seed}"
        colours = [1 + ROUTERS.index(arm[1])] * len(rows)
        drawn = charts.shares(rows, [str(e) for e in range(len(rows[TASKS[0]]))], title, colours)
        maps.append(f"<p>Percent, seed {seed}</p>{drawn}")
    others = f"<details><summary>The other seeds</summary>{''.join(maps[1:])}</details>" if maps[1:] else ""
    return f"<div><h3>{escape(name_of(arm))}</h3>{maps[0]}{others}</div>"


def _oid(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return '<p class="quiet">Not analysed in this run.</p>'
    words = """<p>The most active experts of the last block, evaluated on the same tokens, about the tokens that the
classifier averages; surrogates subtracted, colours on one scale. Seed of the runs: the first. All atoms and courses are
in <code>oid_plots</code> beside the runs.</p>"""
    parts = []
    for picture in pictures:
        data = base64.b64encode(picture.svg.encode()).decode("ascii")
        shown = f'<img class="oid" alt="{escape(picture.caption)}" src="data:image/svg+xml;base64,{data}"/>'
        parts.append(f"<div><h3>{escape(picture.caption)}</h3>{shown}</div>")
    return words + _wide(parts)
