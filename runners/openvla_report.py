"""The report of a comparison: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from look import charts
from look.markup import document, folded, links, notes, panel, paragraph, section, table, values, wide
from look.words import ENGLISH, Words
from runners.means import in_words
from runners.openvla_arms import ARMS
from runners.openvla_facts import Facts
from runners.openvla_pictures import bars, icsm, norms, steering
from runners.stage import LEFT_OUT, Outcome


def score_table(facts: Facts, words: Words) -> str:
    suites = [facts.suite, *facts.general]
    before = [
        f"{100 * facts.before[suite].success:.1f} %" if suite in facts.before else words("not measured")
        for suite in suites
    ]
    rows = [[words("before fine-tuning"), "", "", "", *before]]
    for arm in facts.arms:
        scores = facts.scores[arm.name]
        times = f" ({words('{rate:g} times', rate=arm.rate)})" if arm.rate != 1 else ""
        rows.append(
            [
                f"<b>{escape(arm.name)}</b>",
                escape(facts.rates[arm.name]) + times,
                in_words(scores.success, words),
                in_words(scores.forgetting, words) if facts.general else words("no general suite"),
                *(in_words(scores.by_suite.get(suite), words) for suite in suites),
            ]
        )
    head = [words(name) for name in ("arm", "learning rate", "success", "forgetting")]
    return table([*head, *(words("success on {suite}", suite=suite) for suite in suites)], rows)


def per_seed(facts: Facts, words: Words) -> str:
    """Every single evaluation, with its episodes and its errors."""
    named = [(words("before fine-tuning"), "", facts.before)]
    named += [
        (arm.name, str(seed), of_seed) for arm in facts.arms for seed, of_seed in facts.scores[arm.name].seeds.items()
    ]
    rows = [
        (escape(arm), seed, escape(suite), f"{score.success:.1%}", str(score.episodes), str(score.errors))
        for arm, seed, scores in named
        for suite, score in scores.items()
    ]
    head = [words(name) for name in ("arm", "seed", "suite", "success", "episodes", "errors")]
    return folded(words("Every evaluation ({count})", count=len(rows)), table(head, rows))


def outcomes_table(outcomes: Sequence[Outcome], words: Words) -> str:
    rows = []
    for outcome in outcomes:
        why = "" if outcome.good else f"<pre>{escape(outcome.why)}</pre>"
        rows.append(
            (
                f"<b>{escape(outcome.stage.name)}</b><br>{escape(words(outcome.state))}, {outcome.seconds:.0f} s<br>"
                f'<code class="quiet">{outcome.key[:12]}</code>',
                f"<code>{escape(outcome.stage.shown())}</code>{why}",
            )
        )
    return table((words("stage, and the hash of its inputs"), words("command")), rows)


def exports(outcomes: Sequence[Outcome], words: Words) -> str:
    """The environment of all stages, a line each."""
    found = dict.fromkeys(f"export {one}" for outcome in outcomes for one in outcome.stage.exported())
    given = "\n".join(found)
    return paragraph(words("Every command was given:")) + f"<pre>{escape(given)}</pre>" if found else ""


def remarks(facts: Facts, words: Words) -> str:
    """What a reader must know before any figure."""
    bad = [
        f"{o.stage.name}: {words(o.state)}: {o.why.splitlines()[0]}"
        for o in facts.outcomes
        if not o.good and o.state != LEFT_OUT
    ]
    errors = [
        words(
            "{arm}, seed {seed}, {suite}: {errors} of {episodes} episodes ended in an error",
            arm=arm,
            seed=seed,
            suite=suite,
            errors=score.errors,
            episodes=score.episodes,
        )
        for arm, scores in facts.scores.items()
        for seed, of_seed in scores.seeds.items()
        for suite, score in of_seed.items()
        if score.errors
    ]
    return (
        notes(words("What stood in for the real thing"), facts.stood_in, "warn")
        + notes(words("Did not end well"), bad, "bad")
        + notes(words("Missing, and so in no mean below"), facts.missing, "bad")
        + notes(words("Errors inside episodes: these episodes are not counted"), errors, "warn")
    )


def scores_html(facts: Facts, words: Words) -> str:
    others = [name for name in ARMS if name not in facts.scores]
    says = [(f"<b>{escape(arm.name)}</b>", escape(words(arm.says))) for arm in facts.arms]
    drawn = [
        panel(words(title), charts.intervals(bars(facts, kind), words(title), words("share"), words=words))
        for kind, title in (("success", "Success"), ("forgetting", "Forgetting"))
    ]
    left_out = words("Arms that were not asked for: {names} (--arms).", names=", ".join(others))
    return (
        score_table(facts, words)
        + wide(drawn)
        + per_seed(facts, words)
        + table((words("arm"), words("what it is")), says)
        + (paragraph(left_out, "quiet") if others else "")
    )


def page(facts: Facts, words: Words = ENGLISH) -> str:
    """The whole report."""
    general = ", ".join(facts.general)
    sections = ("Success and forgetting", "Drift, beta and gamma", "Norms of the gradient")
    sections += ("ICSM: which directions are fragile", "Commands, hashes, versions")
    places = dict(zip(("scores", "steering", "norms", "icsm", "made"), map(words, sections), strict=True))
    intro = words(
        """Fine-tuned for <code>{suite}</code>; general suites: <code>{general}</code>. Seeds {seeds}. {when}.""",
        suite=escape(facts.suite),
        general=escape(general or words("none: forgetting was not measured (--general-suites)")),
        seeds=escape(", ".join(map(str, facts.seeds))),
        when=escape(facts.when),
    )
    body = [
        f"<h1>{words('Gradient surgery on openvla')}</h1>",
        paragraph(intro),
        remarks(facts, words),
        links(places),
        section("scores", places["scores"]),
        paragraph(
            words("""Success: share of episodes on the downstream suite. Forgetting: success on the general suites
            before fine-tuning minus after, mean over suites; below zero means that it got better. Mean and 95 %
            t-interval over seeds.""")
        ),
        scores_html(facts, words),
        section("steering", places["steering"]),
        paragraph(
            words("""On a part of the probe set the student's states are compared with the teacher's on the same
            samples. The more they have drifted, the less of the plastic and the fragile component passes.""")
        ),
        steering(facts, words),
        section("norms", places["norms"]),
        paragraph(words("At the hooked layers: the gradient, its parts, and what is left of it after the surgery.")),
        norms(facts, words),
        section("icsm", places["icsm"]),
        paragraph(
            words("""Vulnerability: how far the output distribution moves (KL) when a direction is added to the
            instruction's hidden states. Directions of large variance are not always the vulnerable ones.""")
        ),
        icsm(facts, words),
        section("made", places["made"]),
        exports(facts.outcomes, words),
        outcomes_table(facts.outcomes, words),
        values((words("part"), words("version")), facts.made_with),
    ]
    return document(words("openvla: gradient surgery"), "\n".join(body), lang=words.lang)
