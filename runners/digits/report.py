"""The comparison on digits as one HTML file that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from runners import charts
from runners.digits.data import TASKS
from runners.digits.keep import Arm
from runners.digits.results import MEASURES, SAYS, WORDS, Results, course, name_of
from runners.digits.training import ROUTERS
from runners.intervals import Mean
from runners.markup import document, table
from runners.openvla_report import notes

PERCENT = ("final", "worst", "forgetting")
STYLE = """
.strip { display: flex; gap: 2px; flex-wrap: wrap; }
.strip span { width: .8rem; height: 1.1rem; border-radius: 2px; background: var(--colour); }
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
{_wide(_courses(results, arm) for arm in results.arms)}
<h2 id="schedule">What the schedule chose</h2>
{_chosen(results)}
<h2 id="pi">Predictive integrity over time</h2>
<p>On the validation images; 1: a loss of nothing, and no gradient left.</p>
{_wide(_integrity(results, arm) for arm in results.arms)}
<h2 id="experts">Experts used</h2>
<p>Share of a task's choices that went to each expert at the end, in the last block; seed {results.seeds[0]}.</p>
{_wide(_experts(results, arm) for arm in results.arms)}
<h2 id="oid">What pairs of experts tell about the output</h2>
{_oid(pictures)}
<h2 id="made">Settings and versions</h2>
<p>Rate, steps, choices and the schedule's policy were chosen on seed 100 with the linear gate, before any reported seed
was run, from few trials: a rate that falls to 0, without which rounds and dynamic end wherever the last task left them;
policy need over progress, and over need without PI or with a shorter wait.</p>
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
    series = [
        charts.Line(task, [course(runs, task, results.settings.test_every)], colour)
        for colour, task in enumerate(TASKS, 1)
    ]
    drawn = charts.lines(series, f"Test accuracy, {name_of(arm)}", "mean over seeds", "choices")
    return f"<div><h3>{escape(name_of(arm))}</h3>{drawn}</div>"


def _integrity(results: Results, arm: Arm) -> str:
    runs = [results.runs[arm][seed] for seed in results.seeds]
    series = []
    for colour, task in enumerate(TASKS, 1):
        entries = zip(*(run["history"][task] for run in runs), strict=True)
        found = [(float(one[0]["epoch"]), sum(entry["avg_pi"] for entry in one) / len(one)) for one in entries]
        series.append(charts.Line(task, [found], colour))
    drawn = charts.lines(series, f"PI, {name_of(arm)}", "mean over seeds", "choices")
    return f"<div><h3>{escape(name_of(arm))}</h3>{drawn}</div>"


def _chosen(results: Results) -> str:
    legend = "".join(f'<li><span class="swatch series{n}"></span>{task}</li>' for n, task in enumerate(TASKS, 1))
    rows = []
    for arm in results.arms:
        if arm[0] == "dynamic":
            for seed in results.seeds:
                run = results.runs[arm][seed]
                strip = "".join(
                    f'<span class="series{1 + TASKS.index(task)}" title="{escape(f"{task}: {reason}")}"></span>'
                    for task, reason in zip(run["chosen"], run["reasons"], strict=True)
                )
                rows.append([escape(arm[1]), str(seed), f'<div class="strip">{strip}</div>'])
    if not rows:
        return '<p class="quiet">No arm with the dynamic schedule was run.</p>'
    return f'<ul class="legend">{legend}</ul>{table(("routing", "seed", "choices, first to last"), rows)}'


def _experts(results: Results, arm: Arm) -> str:
    shares = results.runs[arm][results.seeds[0]]["experts"]
    number = len(shares[TASKS[0]][-1])
    left, top, cell = 70, 22, 38
    parts = [
        f'<text x="{left + cell * (e + 0.5)}" y="{top - 8}" text-anchor="middle">{e}</text>' for e in range(number)
    ]
    for row, task in enumerate(TASKS):
        y = top + cell * row
        parts.append(f'<text x="{left - 8}" y="{y + cell / 2 + 4}" text-anchor="end">{task}</text>')
        for e, share in enumerate(shares[task][-1]):
            x = left + cell * e
            # Opacity carries the share: a task that uses two experts alone has two squares of 50 %.
            parts.append(
                f'<rect class="dot series{1 + ROUTERS.index(arm[1])}" x="{x + 1}" y="{y + 1}" width="{cell - 2}" '
                f'height="{cell - 2}" rx="3" fill-opacity="{min(1.0, 1.6 * share):.3f}"/>'
                f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">{100 * share:.0f}</text>'
            )
    title = f"Percent of choices by task and expert, {name_of(arm)}"
    drawn = charts.picture(left + cell * number + 4, top + cell * len(TASKS) + 4, title, parts)
    return f"<div><h3>{escape(name_of(arm))}</h3>{drawn}</div>"


def _oid(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return '<p class="quiet">Not analysed in this run.</p>'
    words = """<p>The most active experts of the last block, evaluated on the same tokens, about the tokens that the
classifier averages; in nats, surrogates subtracted. Seed of the runs: the first. All atoms and courses are in
<code>oid_plots</code> beside the runs.</p>"""
    parts = []
    for picture in pictures:
        data = base64.b64encode(picture.svg.encode()).decode("ascii")
        shown = f'<img class="oid" alt="{escape(picture.caption)}" src="data:image/svg+xml;base64,{data}"/>'
        parts.append(f"<div><h3>{escape(picture.caption)}</h3>{shown}</div>")
    return words + _wide(parts)
