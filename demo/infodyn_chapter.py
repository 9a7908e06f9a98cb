"""Writes the chapter on information dynamics: what was trained when and why, who was active, what pairs tell."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from demo.infodyn_timeline import timeline
from demo.report import cards, side_by_side
from runners.charts import Line, lines, shares
from runners.markup import table

TITLE = '<h1 id="infodyn">LLaMA-Factory: information dynamics</h1>'
COMMAND = "make infodyn"
"""Builds the environment of the analysis."""


def which_tree(facts: dict[str, Any]) -> str:
    """Which tree ran, said first."""
    commit = f"<code>{escape(facts['commit'])}</code>"
    kind, word = ("good", "proven") if facts["proven"] else ("warn", "<b>not</b> proven")
    return (
        f'<div class="note {kind}"><b>This ran on the real LLaMA-Factory</b>, commit {commit}, its tree {word} to be '
        "the pinned one, by <code>llamafactory-cli train</code>. The Qwen3-MoE is tiny and begins at random, and "
        "the three data sets are made up (five letters, to be echoed, reversed or sorted): this shows that the method "
        "runs in upstream's own code, not that it helps.</div>"
    )


def fates(facts: dict[str, Any]) -> str:
    """What became of each task, as the evaluations have it."""
    rows = []
    for task, found in facts["evaluations"].items():
        accuracies = [entry["avg_accuracy"] for entry in found]
        chunks = sum(choice["task"] == task for choice in facts["choices"])
        grokked = [choice["step"] for choice in facts["choices"] if task in choice["grokked"]]
        rows.append(
            (
                f"<b>{escape(task)}</b>",
                f"{chunks} of {len(facts['choices'])}",
                *(f"{value:.1%}" for value in (accuracies[0], max(accuracies), accuracies[-1])),
                f"{max(accuracies) - accuracies[-1]:.1%}",
                f"{found[-1]['avg_pi']:.3f}",
                f"first at step {grokked[0]}" if grokked else "never",
            )
        )
    head = ("task", "chunks trained", "accuracy first", "best", "last", "best \u2212 last", "PI last", "grokked")
    return table(head, rows)


def reasons(facts: dict[str, Any]) -> str:
    """Every choice, and what was known of each task when it was made."""
    rows = []
    for choice in facts["choices"]:
        known = []
        for task, found in facts["evaluations"].items():
            if before := [entry for entry in found if entry["step"] <= choice["step"]]:
                known.append(f"{escape(task)} {before[-1]['avg_accuracy']:.2f} / {before[-1]['avg_pi']:.2f}")
        rows.append(
            (
                str(choice["step"]),
                f"<b>{escape(choice['task'])}</b>",
                escape(choice["kind"]),
                escape(choice["reason"]),
                "<br>".join(known),
            )
        )
    return table(("step", "task", "kind", "reason", "accuracy / PI then"), rows)


def curves(facts: dict[str, Any]) -> str:
    drawn = []
    for measure, title, unit in (("avg_accuracy", "Accuracy", "share"), ("avg_pi", "Predictive integrity", "PI")):
        series = [
            Line(task, [[(entry["step"], entry[measure]) for entry in found]], colour)
            for colour, (task, found) in enumerate(facts["evaluations"].items(), 1)
        ]
        drawn.append(f"<div><h3>{title}</h3>{lines(series, f'{title} of each task', unit)}</div>")
    return f'<div class="wide">{"".join(drawn)}</div>'


def activity(facts: dict[str, Any]) -> str:
    """Shares of the first and the last probed evaluation, side by side, for each layer that was probed."""
    counts = {task: facts["counts"][task] for task in facts["evaluations"]}
    epochs = sorted({int(epoch) for found in counts.values() for epoch in found})
    drawn = []
    for module in dict.fromkeys(module for found in counts.values() for at in found.values() for module in at):
        for epoch in dict.fromkeys((epochs[0], epochs[-1])):
            rows = {task: found[str(epoch)][module] for task, found in counts.items()}
            experts = sorted(next(iter(rows.values())), key=int)
            percent = {task: [at[expert] / sum(at.values()) for expert in experts] for task, at in rows.items()}
            words = f"<code>{escape(module)}</code>, after {epoch} chunks"
            squares = shares(percent, experts, f"{module}, after {epoch} chunks", range(1, 1 + len(rows)))
            drawn.append(f"<div><h3>{words}</h3>{squares}</div>")
    return f'<div class="wide">{"".join(drawn)}</div>'


def image(svg: str, words: str) -> str:
    """A picture of the runner's, which brings its own style, light and dark."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    drawn = f'<img class="oid" alt="{escape(words)}" src="data:image/svg+xml;base64,{data}"/>'
    return f"<figure>{drawn}<figcaption>{escape(words)}</figcaption></figure>"


def pairs(found: dict[str, Any]) -> str:
    """Synergy and redundancy of every pair and epoch, with 95 % intervals."""
    rows = []
    for pair in found["pairs"]:
        names = [pair[side].rpartition(".")[2] for side in "ij"]
        cells = [
            f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}] {escape(value['unit'])}"
            for value in pair["values"].values()
        ]
        state = "singular: not to be trusted" if pair["singular"] else ""
        rows.append((pair["epoch"], *names, pair["rows"], *(cells or [escape(pair["problem"]), ""]), state))
    return table(("after chunk", "i", "j", "rows", "synergy", "redundancy", ""), rows)


def omega_id(facts: dict[str, Any]) -> str:
    if not facts["oid"]:
        return (
            '<div class="note warn">Probed, not analysed: the environment with omegaid is not built. '
            f"<code>{COMMAND}</code> builds it, and then <code>make demo</code> again.</div>"
        )
    parts = []
    for task, found in facts["oid"].items():
        words = {"Syn": "synergy", "Red": "redundancy"}
        shown = {
            epoch: "".join(image(svg, f"{task}: {words[kind]}, after {epoch} chunks") for kind, svg in maps.items())
            for epoch, maps in found["maps"].items()
        }
        *earlier, last = shown.values()
        folded = (
            f"<details><summary>Earlier: after {' and '.join(list(shown)[:-1])} chunks</summary>"
            f'<div class="pictures">{"".join(earlier)}</div></details>'
            if earlier
            else ""
        )
        parts.append(
            f'<h3>{escape(task)}</h3><div class="pictures">{last}</div>{folded}'
            f"<details><summary>Numbers of every pair</summary>{pairs(found)}</details>"
            f'<p><a href="{escape(found["page"])}">All 16 atoms of {escape(task)}</a></p>'
        )
    return "".join(parts)


def chapter(facts: dict[str, Any]) -> str:
    """The chapter from `facts`: commit, proven, choices, evaluations, counts, oid, off, command, seconds, versions."""
    choices, tasks = facts["choices"], list(facts["evaluations"])
    files = sum(len(found) for found in facts["counts"].values())
    computed = sum(bool(pair["values"]) for found in facts["oid"].values() for pair in found["pairs"])
    mean = sum(found[-1]["avg_accuracy"] for found in facts["evaluations"].values()) / len(tasks)
    kinds = len({choice["kind"] for choice in choices})
    return f"""{TITLE}
{which_tree(facts)}
<p>After each chunk of steps every task is evaluated, and a scheduler chooses from accuracy and predictive integrity
(PI) what to train next. Probes keep what single experts put out on fixed validation samples; integrated information
decomposition (Omega-ID) then says what pairs of experts hold together or alike. The changes in upstream's files are
among those in <a href="#graft">the graft</a>.</p>
{
        cards(
            [
                (str(len(choices)), f"choices, for {kinds} kinds of reasons"),
                (f"{mean:.0%}", "accuracy at the end, mean over tasks"),
                (str(files), f"probe files, {computed} pairs analysed"),
                (f"{facts['seconds']:.0f} s", "for training, probes and analysis"),
            ]
        )
    }
<h2 id="infodyn-schedule">What was trained when, and why</h2>
{timeline(choices, tasks)}
<details><summary>Every choice with its reason</summary>{reasons(facts)}</details>
<h2 id="infodyn-course">Accuracy and PI</h2>
<p>On each task's own validation samples, after every chunk. PI = exp(-(loss / entropy + gradient norm) / 2), all three
measured; 1 is a model that errs in nothing and has nothing left to learn.</p>
{curves(facts)}
{fates(facts)}
<p>One model, one seed, and no other order to compare with: that evaluations decide is shown, that it helps is not.
Where <em>best \u2212 last</em> is large, a task lost what it knew while others were trained. On digits, five seeds,
taking turns did as well (<code>docs/methods/infodyn.md</code>).</p>
<h2 id="infodyn-experts">Who was active</h2>
<p>Percent of a task's choices that went to each expert, over all its validation tokens without padding.</p>
{activity(facts)}
<h2 id="infodyn-oid">What pairs of experts tell</h2>
<p>The most active experts, each evaluated on the same tokens, about what their layer puts out. Numbers are nats, the
mean of shuffled surrogates subtracted, \u00b1 a 95 % interval, bold where it leaves out 0; orange is above zero, blue
below. The samples are few: see the intervals.</p>
{omega_id(facts)}
<h2 id="infodyn-off">Switched off it is the upstream</h2>
<p>The same configuration without this method's switches, from one seed, in upstream's own tree and in the grafted one.
Losses as hexadecimal floats, to the last bit.</p>
{side_by_side(facts["off"], ("upstream's own tree", "grafted tree, switched off"))}
<h3>Command and versions</h3>
<pre>{escape(facts["command"])}</pre>
{table(("part", "version"), [(escape(k), f"<code>{escape(v)}</code>") for k, v in facts["versions"].items()])}
"""
