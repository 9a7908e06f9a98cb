"""The report of a comparison: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from runners import charts
from runners.intervals import Mean
from runners.markup import document, table
from runners.openvla_arms import ARMS
from runners.openvla_facts import Facts
from runners.openvla_scores import ArmScores, forgetting_of
from runners.stages import LEFT_OUT, Outcome

FRAGILE, PLASTIC, NULL = 1, 3, 0
"""Colours of the three parts, in every picture."""

NORMS = {"g": ("||g||", 2), "g_after": ("after", 4), "gn": ("null", NULL), "gp": ("plastic", PLASTIC)}
NORMS["gf"] = ("fragile", FRAGILE)
"""Names of the norms in metrics.jsonl, and their names and colours in the charts."""


def in_words(mean: Mean | None, *, percent: bool = True) -> str:
    """A mean with its interval as the tables show it."""
    if mean is None:
        return "missing"
    scale, unit = (100.0, " %") if percent else (1.0, "")
    if mean.half is None:
        return f"{mean.mean * scale:.1f}{unit} (one seed: no interval)"
    return f"{mean.mean * scale:.1f}{unit} ± {mean.half * scale:.1f} ({mean.count} seeds)"


def notes(title: str, lines: Sequence[str], kind: str) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="note {kind}"><b>{escape(title)}</b><ul>{items}</ul></div>'


def score_table(facts: Facts) -> str:
    suites = [facts.suite, *facts.general]
    before = [
        in_words(Mean(facts.before[suite].success, None, 1)).split(" (")[0] if suite in facts.before else "not measured"
        for suite in suites
    ]
    rows = [["before fine-tuning", "", "", "", *before]]
    for arm in facts.arms:
        scores = facts.scores[arm.name]
        rows.append(
            [
                f"<b>{escape(arm.name)}</b>",
                escape(facts.rates[arm.name]) + (f" ({arm.rate:g} times)" if arm.rate != 1 else ""),
                in_words(scores.success),
                in_words(scores.forgetting) if facts.general else "no general suite",
                *(in_words(scores.by_suite.get(suite)) for suite in suites),
            ]
        )
    head = ["arm", "learning rate", "success", "forgetting", *(f"success on {suite}" for suite in suites)]
    return table(head, rows)


def per_seed(facts: Facts) -> str:
    """Every single evaluation, with its episodes and its errors."""
    named = [("before fine-tuning", "", facts.before)]
    named += [
        (arm.name, str(seed), of_seed) for arm in facts.arms for seed, of_seed in facts.scores[arm.name].seeds.items()
    ]
    rows = [
        (escape(arm), seed, escape(suite), f"{score.success:.1%}", str(score.episodes), str(score.errors))
        for arm, seed, scores in named
        for suite, score in scores.items()
    ]
    shown = table(("arm", "seed", "suite", "success", "episodes", "errors"), rows)
    return f"<details><summary>Every evaluation ({len(rows)})</summary>{shown}</details>"


def bars(facts: Facts, kind: str) -> list[charts.Bar]:
    found = []
    for colour, arm in enumerate(facts.arms):
        scores = facts.scores[arm.name]
        mean = scores.success if kind == "success" else scores.forgetting
        if mean is not None:
            found.append(charts.Bar(arm.name, mean.mean, mean.half, _values(scores, facts, kind), colour))
    return found


def _values(scores: ArmScores, facts: Facts, kind: str) -> list[float]:
    if kind == "success":
        return [one[facts.suite].success for one in scores.seeds.values() if facts.suite in one]
    lost = [forgetting_of(facts.before, one, facts.general) for one in scores.seeds.values()]
    return [value for value in lost if value is not None]


def trace(rows: Iterable[Mapping[str, Any]], key: str) -> list[charts.Point]:
    """(step, value) of every row that has a number under `key`."""
    return [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))]


def steering(facts: Facts) -> str:
    """Drift, beta and gamma over steps: a colour an arm, a line a seed."""
    parts = []
    for key, title, unit in (
        ("mean_drift", "Drift", "relative drift, ||C_S - C_T|| / ||C_T||"),
        ("beta", "beta: what stays of the plastic component", "beta"),
        ("gamma", "gamma: what stays of the fragile component", "gamma"),
    ):
        series = [
            charts.Line(arm.name, [trace(rows, key) for rows in facts.traces[arm.name].values()], colour)
            for colour, arm in enumerate(facts.arms)
            if arm.name in facts.traces
        ]
        parts.append(f"<div><h3>{escape(title)}</h3>{charts.lines(series, title, unit)}</div>")
    return f'<div class="wide">{"".join(parts)}</div>'


def norms(facts: Facts) -> str:
    """Norms of the gradient and its parts over steps: one chart for every arm and hooked layer, a line a seed."""
    parts = []
    for arm, seeds in facts.traces.items():
        layers: dict[str, dict[str, dict[int, list[charts.Point]]]] = {}
        for seed, rows in seeds.items():
            for row in rows:
                for layer, found in (row.get("norms") or {}).items():
                    for name, value in found.items():
                        course = layers.setdefault(str(layer), {}).setdefault(name, {}).setdefault(seed, [])
                        course.append((float(row["step"]), float(value)))
        for layer, found in layers.items():
            series = [
                charts.Line(word, list(found[name].values()), colour)
                for name, (word, colour) in NORMS.items()
                if name in found
            ]
            title = f"{arm}, layer {layer}"
            parts.append(f"<div><h3>{escape(title)}</h3>{charts.lines(series, title, 'norm')}</div>")
    shown = "".join(parts) or '<p class="quiet">No arm recorded norms.</p>'
    return f'<div class="wide">{shown}</div>'


def split_of(layer: Mapping[str, Any]) -> dict[int, list[charts.Point]]:
    """(index of the singular value, vulnerability) by part: `order` begins with Fragile, then Plastic, then Null."""
    fragile, plastic = int(layer["fragile"]), int(layer["plastic"])
    groups: dict[int, list[charts.Point]] = {FRAGILE: [], PLASTIC: [], NULL: []}
    for rank, index in enumerate(layer["order"]):
        part = FRAGILE if rank < fragile else PLASTIC if rank < fragile + plastic else NULL
        groups[part].append((float(index), float(layer["vulnerabilities"][index])))
    return groups


def icsm(facts: Facts) -> str:
    """Vulnerability against the index of the singular value, for every representative layer of every ranking."""
    parts = []
    for rank_by, meta in facts.icsm.items():
        for number, layer in meta["layers"].items():
            title = f"ranked by {rank_by}, layer {number}"
            if not layer["vulnerabilities"]:
                nothing = '<p class="quiet">A random basis: nothing to rank.</p>'
                parts.append(f"<div><h3>{escape(title)}</h3>{nothing}</div>")
                continue
            chart = charts.points_on_log(split_of(layer), title, "index of the singular value", "vulnerability (KL)")
            parts.append(f"<div><h3>{escape(title)}</h3>{chart}</div>")
    names = {FRAGILE: "Fragile", PLASTIC: "Plastic", NULL: "Null"}
    legend = "".join(f'<li><span class="swatch series{i}"></span>{name}</li>' for i, name in names.items())
    shown = "".join(parts) or '<p class="quiet">No subspaces were made.</p>'
    return f'<ul class="legend">{legend}</ul><div class="wide">{shown}</div>'


def outcomes_table(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        why = "" if outcome.good else f"<pre>{escape(outcome.why)}</pre>"
        rows.append(
            (
                f"<b>{escape(outcome.stage.name)}</b><br>{escape(outcome.state)}, {outcome.seconds:.0f} s<br>"
                f'<code class="quiet">{outcome.key[:12]}</code>',
                f"<code>{escape(outcome.stage.shown())}</code>{why}",
            )
        )
    return table(("stage, and the hash of its inputs", "command"), rows)


def exports(outcomes: Sequence[Outcome]) -> str:
    """The environment of all stages, a line each."""
    return "\n".join(dict.fromkeys(f"export {one}" for outcome in outcomes for one in outcome.stage.exported()))


def page(facts: Facts) -> str:
    """The whole report."""
    bad = [
        f"{o.stage.name}: {o.state}: {o.why.splitlines()[0]}"
        for o in facts.outcomes
        if not o.good and o.state != LEFT_OUT
    ]
    errors = [
        f"{arm}, seed {seed}, {suite}: {score.errors} of {score.episodes} episodes ended in an error"
        for arm, scores in facts.scores.items()
        for seed, of_seed in scores.seeds.items()
        for suite, score in of_seed.items()
        if score.errors
    ]
    arms = [(f"<b>{escape(arm.name)}</b>", escape(arm.says)) for arm in facts.arms]
    others = [name for name in ARMS if name not in facts.scores]
    general = ", ".join(facts.general) or "none: forgetting was not measured (--general-suites)"
    body = f"""<h1>Gradient surgery on openvla</h1>
<p>Fine-tuned for <code>{escape(facts.suite)}</code>; general suites: <code>{escape(general)}</code>. Seeds
{escape(", ".join(map(str, facts.seeds)))}. {escape(facts.when)}.</p>
{notes("What stood in for the real thing", facts.stood_in, "warn")}
{notes("Did not end well", bad, "bad")}
{notes("Missing, and so in no mean below", facts.missing, "bad")}
{notes("Errors inside episodes: these episodes are not counted", errors, "warn")}
<nav><a href="#scores">scores</a> <a href="#steering">drift and steering</a> <a href="#norms">norms</a>
<a href="#icsm">ICSM</a> <a href="#made">commands and versions</a></nav>
<h2 id="scores">Success and forgetting</h2>
<p>Success: share of episodes on the downstream suite. Forgetting: success on the general suites before fine-tuning
minus after, mean over suites; below zero means that it got better. Mean and 95 % t-interval over seeds.</p>
{score_table(facts)}
<div class="wide"><div><h3>Success</h3>{charts.intervals(bars(facts, "success"), "success by arm", "success")}</div>
<div><h3>Forgetting</h3>{charts.intervals(bars(facts, "forgetting"), "forgetting by arm", "forgetting")}</div></div>
{per_seed(facts)}
{table(("arm", "what it is"), arms)}
{f'<p class="quiet">Arms that were not asked for: {", ".join(others)} (--arms).</p>' if others else ""}
<h2 id="steering">Drift, beta and gamma</h2>
<p>On a part of the probe set the student's states are compared with the teacher's on the same samples. The more they
have drifted, the less of the plastic and the fragile component passes.</p>
{steering(facts)}
<h2 id="norms">Norms of the gradient</h2>
<p>At the hooked layers: the gradient, its parts, and what is left of it after the surgery.</p>
{norms(facts)}
<h2 id="icsm">ICSM: which directions are fragile</h2>
<p>Vulnerability: how far the output distribution moves (KL) when a direction is added to the instruction's hidden
states. Directions of large variance are not always the vulnerable ones.</p>
{icsm(facts)}
<h2 id="made">Commands, hashes, versions</h2>
<p>Every command was given:</p>
<pre>{escape(exports(facts.outcomes))}</pre>
{outcomes_table(facts.outcomes)}
{table(("part", "version"), [(escape(k), f"<code>{escape(v)}</code>") for k, v in facts.made_with.items()])}"""
    return document("openvla: gradient surgery", body)
