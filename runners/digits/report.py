"""The comparison on digits as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from look.markup import document, legend, links, notes, paragraph, section, table, values, wide
from look.words import ENGLISH, Words
from runners.digits.data import TASKS
from runners.digits.drawn import Picture, bars, courses, experts, integrity, oid
from runners.digits.results import DECIDED, MEASURES, SAYS, WORDS, Results, decided, name_of
from runners.intervals import Mean, mean_of

PERCENT = ("final", "worst", "forgetting")
STYLE = """
.strip { display: flex; gap: 2px; flex-wrap: wrap; }
.strip span { width: .8rem; height: 1.1rem; border-radius: 2px; background: var(--colour); }
.strip .review, .strip .cycle { border: 3px solid var(--ink); }
.strip .cycle { border-style: none none solid; }
"""


SECTIONS = {
    "end": "At the end",
    "against": "Against each other",
    "time": "Accuracy over time",
    "schedule": "What the schedule chose",
    "pi": "Predictive integrity over time",
    "experts": "Experts used",
    "oid": "What pairs of experts tell about the output",
    "made": "Settings and versions",
}


def page(
    results: Results, pictures: Sequence[Picture] = (), remarks: Sequence[str] = (), words: Words = ENGLISH
) -> str:
    """The report; `remarks` stand on top (what was not analysed and why)."""
    places = {name: words(title) for name, title in SECTIONS.items()}
    heads = {name: section(name, title) for name, title in places.items()}
    chance = len(results.comparisons()) * len(MEASURES)
    body = [
        f"<h1>{words('Digits in four tasks: schedules and experts')}</h1>",
        paragraph(
            words(
                """A small vision transformer with a mixture of experts learns the digits 0 to 4 (<b>low</b>), 5 to 9
                (<b>high</b>), all digits turned by a quarter (<b>rotated</b>) and all digits dark on light
                (<b>inverted</b>). Schedules and routings are compared, all with the same number of steps; nothing tells
                the model which task an image is from. Means and 95 % t-intervals over seeds ({seeds}). Accuracies are
                on test images that neither training nor schedule saw; PI and experts used are on the validation images
                by which the schedule decides.""",
                seeds=escape(", ".join(map(str, results.seeds))),
            )
        ),
        notes(words("To know"), list(remarks), "warn"),
        links(places),
        heads["end"],
        paragraph(
            words("""Forgetting: the best test accuracy before the last test minus the last one, mean over tasks
            (Chaudhry et al. 2018); below zero, tasks are best known at the end. Experts used: exp of the entropy of
            their shares, 1 is one expert alone. Tasks apart: total variation between two tasks' shares of the experts,
            0 where all use them alike.""")
        ),
        _end(results, words),
        wide(bars(results, measure, words) for measure in ("final", "forgetting")),
        table(
            (words("word"), words("what it is")),
            [(f"<b>{escape(word)}</b>", escape(words(what))) for word, what in SAYS.items()],
        ),
        heads["against"],
        paragraph(
            words(
                """Differences seed by seed: both sides had the same images and the same first weights. Bold where the
                interval leaves out 0: of {count} differences one in twenty would by chance.""",
                count=chance,
            )
        ),
        _against(results, words),
        heads["time"],
        paragraph(words("On the test images. Means over seeds; bands are 95 % t-intervals, cut at 0 and 1.")),
        wide(courses(results, arm, words) for arm in results.arms),
        heads["schedule"],
        _chosen(results, words),
        heads["pi"],
        paragraph(
            words("On the validation images; 1: a loss of nothing, and no gradient left. Means and bands as above.")
        ),
        wide(integrity(results, arm, words) for arm in results.arms),
        heads["experts"],
        paragraph(
            words("""Share of a task's choices that went to each expert at the end, in the last block. An expert's
            number means another expert in every seed, so no mean is taken; how many are used, and how differently by
            task, has intervals above.""")
        ),
        wide(experts(results, arm, words) for arm in results.arms),
        heads["oid"],
        oid(pictures, words),
        heads["made"],
        paragraph(
            words("""Rate, steps, choices and the schedule's policy were chosen on seed 100 with the linear gate, before
            any reported seed was run, from few trials: a rate that falls to 0, without which rounds and dynamic end
            wherever the last task left them; policy need over progress, and over need without PI or with a shorter
            wait. Of seven sets of thresholds these ended best there (84.7 %, the others 83.4 to 84.6), with reviews and
            with turns over all tasks when all were grokked.""")
        ),
        values((words("setting"), words("value")), vars(results.settings)),
        values((words("part"), words("version")), results.made_with),
    ]
    return document(words("Digits: schedules and experts"), "\n".join(body), STYLE, words.lang)


def in_words(mean: Mean, measure: str, *, signed: bool = False) -> str:
    """A mean with its interval, percents where the measure is a share of images."""
    scale, digits = (100, 1) if measure in PERCENT else (1, 2)
    around = "" if mean.half is None else f" ± {scale * mean.half:.{digits}f}"
    return f"{scale * mean.mean:{'+' if signed else ''}.{digits}f}{around}{' %' if measure in PERCENT else ''}"


def _head(first: str, names: Mapping[str, str], words: Words) -> list[str]:
    return [words(first), *(words(name) for name in names.values())]


def _end(results: Results, words: Words) -> str:
    rows = [
        [f"<b>{escape(name_of(arm))}</b>", *(in_words(results.mean(arm, measure), measure) for measure in MEASURES)]
        for arm in results.arms
    ]
    return table(_head("schedule, routing", WORDS, words), rows)


def _against(results: Results, words: Words) -> str:
    rows = []
    for told, arm, other in results.comparisons():
        cells = []
        for measure in MEASURES:
            found = results.difference(arm, other, measure)
            shown = in_words(found, measure, signed=True)
            cells.append(f"<b>{shown}</b>" if found.half is not None and abs(found.mean) > found.half else shown)
        first, second = told.split(" against ")
        rows.append([escape(words("{first} against {second}", first=first, second=second)), *cells])
    return table(_head("first minus second", WORDS, words), rows)


def _chosen(results: Results, words: Words) -> str:
    if not results.asking:
        return paragraph(words("No arm was run whose schedule decides."), "quiet")
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
    says = words(
        """A task is grokked while its last evaluations lie above both thresholds and are stable. Counts are of a run's
        {choices} choices, mean over seeds. In the courses a frame is a review, and a line below is a choice made while
        all tasks were grokked.""",
        choices=results.settings.choices,
    )
    head = [words(name) for name in ("schedule, routing", "seed", "choices, first to last")]
    return (
        paragraph(says)
        + table(_head("schedule, routing", DECIDED, words), counts)
        + legend({task: colour for colour, task in enumerate(TASKS, 1)})
        + table(head, strips)
    )
