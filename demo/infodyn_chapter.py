"""Writes the chapter on information dynamics: what was trained when and why, who was active, what pairs tell."""

from __future__ import annotations

from html import escape
from typing import Any

from demo.infodyn_pairs import omega_id
from demo.infodyn_timeline import timeline
from demo.parts import cards, side_by_side
from look.charts import Line, lines, shares
from look.markup import folded, note, panel, paragraph, section, table, values, wide
from look.words import ENGLISH, Words


def title(words: Words) -> str:
    return f'<h1 id="infodyn">{words("LLaMA-Factory: information dynamics")}</h1>'


def which_tree(facts: dict[str, Any], words: Words) -> str:
    """Which tree ran, said first."""
    says = words(
        """<b>This ran on the real LLaMA-Factory</b>, commit {commit}, {proof}, by <code>llamafactory-cli
        train</code>. The Qwen3-MoE is tiny and begins at random, and the three data sets are made up (five letters, to
        be echoed, reversed or sorted): this shows that the method runs in upstream's own code, not that it helps.""",
        commit=f"<code>{escape(facts['commit'])}</code>",
        proof=words("its tree proven to be the pinned one")
        if facts["proven"]
        else words("its tree <b>not</b> proven to be the pinned one"),
    )
    return note(says, "good" if facts["proven"] else "warn")


def fates(facts: dict[str, Any], words: Words) -> str:
    """What became of each task, as the evaluations have it."""
    rows = []
    for task, found in facts["evaluations"].items():
        accuracies = [entry["avg_accuracy"] for entry in found]
        chunks = sum(choice["task"] == task for choice in facts["choices"])
        grokked = [choice["step"] for choice in facts["choices"] if task in choice["grokked"]]
        rows.append(
            (
                f"<b>{escape(task)}</b>",
                words("{count} of {all}", count=chunks, all=len(facts["choices"])),
                *(f"{value:.1%}" for value in (accuracies[0], max(accuracies), accuracies[-1])),
                f"{max(accuracies) - accuracies[-1]:.1%}",
                f"{found[-1]['avg_pi']:.3f}",
                words("first at step {step}", step=grokked[0]) if grokked else words("never"),
            )
        )
    head = ("task", "chunks trained", "accuracy first", "best", "last", "best \u2212 last", "PI last", "grokked")
    return table([words(name) for name in head], rows)


def reasons(facts: dict[str, Any], words: Words) -> str:
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
    return table([words(name) for name in ("step", "task", "kind", "reason", "accuracy / PI then")], rows)


def curves(facts: dict[str, Any], words: Words) -> str:
    drawn = []
    for measure, title, unit in (("avg_accuracy", "Accuracy", "share"), ("avg_pi", "Predictive integrity", "PI")):
        series = [
            Line(task, [[(entry["step"], entry[measure]) for entry in found]], colour)
            for colour, (task, found) in enumerate(facts["evaluations"].items(), 1)
        ]
        each = words("{measure} of each task", measure=words(title))
        drawn.append(panel(words(title), lines(series, each, words(unit), words=words)))
    return wide(drawn)


def activity(facts: dict[str, Any], words: Words) -> str:
    """Shares of the first and the last probed evaluation, side by side, for each layer that was probed."""
    counts = {task: facts["counts"][task] for task in facts["evaluations"]}
    epochs = sorted({int(epoch) for found in counts.values() for epoch in found})
    drawn = []
    for module in dict.fromkeys(module for found in counts.values() for at in found.values() for module in at):
        for epoch in dict.fromkeys((epochs[0], epochs[-1])):
            rows = {task: found[str(epoch)][module] for task, found in counts.items()}
            experts = sorted(next(iter(rows.values())), key=int)
            percent = {task: [at[expert] / sum(at.values()) for expert in experts] for task, at in rows.items()}
            told = words("{what}, after {epoch} chunks", what=module, epoch=epoch)
            drawn.append(panel(told, shares(percent, experts, told, range(1, 1 + len(rows)))))
    return wide(drawn)


def _figures(facts: dict[str, Any], words: Words) -> str:
    choices, tasks = facts["choices"], list(facts["evaluations"])
    files = sum(len(found) for found in facts["counts"].values())
    computed = sum(bool(pair["values"]) for found in facts["oid"].values() for pair in found["pairs"])
    mean = sum(found[-1]["avg_accuracy"] for found in facts["evaluations"].values()) / len(tasks)
    kinds = len({choice["kind"] for choice in choices})
    return cards(
        [
            (str(len(choices)), words("choices, for {count} kinds of reasons", count=kinds)),
            (f"{mean:.0%}", words("accuracy at the end, mean over tasks")),
            (str(files), words("probe files, {count} pairs analysed", count=computed)),
            (f"{facts['seconds']:.0f} s", words("for training, probes and analysis")),
        ]
    )


def chapter(facts: dict[str, Any], words: Words = ENGLISH) -> str:
    """The chapter from `facts`: commit, proven, choices, evaluations, counts, oid, off, command, seconds, versions."""
    trees = (words("upstream's own tree"), words("grafted tree, switched off"))
    body = [
        title(words),
        which_tree(facts, words),
        paragraph(
            words("""After each chunk of steps every task is evaluated, and a scheduler chooses from accuracy and
            predictive integrity (PI) what to train next. Probes keep what single experts put out on fixed validation
            samples; integrated information decomposition (Omega-ID) then says what pairs of experts hold together or
            alike. The changes in upstream's files are among those in <a href="#graft">the graft</a>.""")
        ),
        _figures(facts, words),
        section("infodyn-schedule", words("What was trained when, and why")),
        timeline(facts["choices"], list(facts["evaluations"]), words),
        folded(words("Every choice with its reason"), reasons(facts, words)),
        section("infodyn-course", words("Accuracy and PI")),
        paragraph(
            words("""On each task's own validation samples, after every chunk. PI = exp(-(loss / entropy + gradient
            norm) / 2), all three measured; 1 is a model that errs in nothing and has nothing left to learn.""")
        ),
        curves(facts, words),
        fates(facts, words),
        paragraph(
            words("""One model, one seed, and no other order to compare with: that evaluations decide is shown, that it
            helps is not. Where <em>best \u2212 last</em> is large, a task lost what it knew while others were trained.
            On digits, five seeds, taking turns did as well (<code>docs/methods/infodyn.md</code>).""")
        ),
        section("infodyn-experts", words("Who was active")),
        paragraph(
            words(
                "Percent of a task's choices that went to each expert, over all its validation tokens without padding."
            )
        ),
        activity(facts, words),
        section("infodyn-oid", words("What pairs of experts tell")),
        paragraph(
            words("""The most active experts, each evaluated on the same tokens, about what their layer puts out.
            Numbers are nats, the mean of shuffled surrogates subtracted, \u00b1 a 95 % interval, bold where it leaves
            out 0; orange is above zero, blue below. The samples are few: see the intervals.""")
        ),
        omega_id(facts, words),
        section("infodyn-off", words("Switched off it is the upstream")),
        paragraph(
            words("""The same configuration without this method's switches, from one seed, in upstream's own tree and in
            the grafted one. Losses as hexadecimal floats, to the last bit.""")
        ),
        side_by_side(facts["off"], trees, words),
        f"<h3>{words('Command and versions')}</h3>",
        f"<pre>{escape(facts['command'])}</pre>",
        values((words("part"), words("version")), facts["versions"]),
    ]
    return "\n".join(body)
