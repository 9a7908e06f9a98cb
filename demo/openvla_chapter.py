"""Writes the chapter on openvla: what changed upstream, which directions are fragile, and what the surgery did."""

from __future__ import annotations

from html import escape
from typing import Any

from demo.parts import cards, graft_cards, graft_html, loss_chart, stood_in
from look.markup import note, paragraph, section, table, values
from look.words import ENGLISH, Words
from runners.openvla_arms import ARMS
from runners.openvla_facts import Facts
from runners.openvla_pictures import icsm, norms, steering

COMMAND = "make openvla"
"""Fetches and grafts the real tree and builds its environment."""


def title(words: Words) -> str:
    return f'<h1 id="openvla">{words("openvla: gradient surgery")}</h1>'


def which_tree(facts: dict[str, Any], words: Words) -> str:
    """Which tree ran, said first."""
    if facts["real"]:
        says = words(
            """<b>This ran on the real openvla</b>, commit {commit}, its tree proven to be the pinned one. The model has
            16 million random parameters and loads as openvla-7b does, and the data are a few made-up episodes: this
            shows that the method runs in upstream's own code, not that it helps.""",
            commit=f"<code>{escape(facts['commit'])}</code>",
        )
        return note(says, "good")
    return stood_in("openvla", facts["why"], COMMAND, words)


def as_runner(facts: dict[str, Any]) -> Facts:
    """The same in the form that the runner's own pictures take."""
    return Facts(
        arms=[ARMS["baseline"], ARMS["method"]],
        seeds=[0],
        suite="",
        general=(),
        before={},
        scores={},
        traces={"method": {0: facts["trace"]}},
        icsm={"vulnerability": facts["icsm"]},
        outcomes=(),
        stood_in=(),
        missing=(),
        when="",
    )


def sizes(meta: dict[str, Any], words: Words) -> str:
    """How many directions of each layer are Fragile, Plastic and Null."""
    rows = []
    for number, layer in meta["layers"].items():
        fragile, plastic = int(layer["fragile"]), int(layer["plastic"])
        shared = ", ".join(map(str, layer["members"]))
        null = len(layer["order"]) - fragile - plastic
        rows.append((f"{escape(str(number))}", escape(shared), str(fragile), str(plastic), str(null)))
    names = (words(name) for name in ("layer", "used for layers", "Fragile", "Plastic", "Null"))
    return table(tuple(names), rows)


def damping(trace: list[dict[str, Any]], words: Words) -> str:
    """The mean share of the gradient's norm that the surgery left, over steps and layers."""
    found = [one["g_after"] / one["g"] for row in trace for one in (row.get("norms") or {}).values() if one["g"] > 0]
    return f"{sum(found) / len(found):.0%}" if found else words("none recorded")


def chapter(facts: dict[str, Any], words: Words = ENGLISH) -> str:
    """The chapter from `facts`: real, why, commit, diff, overlays, icsm, trace, losses, stages, report."""
    runner = as_runner(facts)
    series = {arm: [(int(step), loss) for step, loss in found] for arm, found in facts["losses"].items()}
    stages = [
        (f"<b>{escape(stage['name'])}</b>", f"<code>{escape(stage['command'])}</code>", f"{stage['seconds']:.0f} s")
        for stage in facts["stages"]
    ]
    ends = [(f"<b>{escape(arm)}</b>", f"{line[0][1]:.3f} \u2192 {line[-1][1]:.3f}") for arm, line in series.items()]
    shown = [
        *graft_cards(facts, words),
        (f"{sum(stage['seconds'] for stage in facts['stages']):.0f} s", words("for {count} stages", count=len(stages))),
        (damping(facts["trace"], words), words("of the gradient's norm left at the hooked layers, mean")),
    ]
    body = [
        title(words),
        which_tree(facts, words),
        paragraph(
            words(
                """Fine-tuning wears down what a model knows. Before it, the method looks for the directions of hidden
                states on which the model's answers hang (ICSM); while it runs, it damps the gradient along these (HSW),
                more the further the states have drifted (Thermostat). <code>finetune.py</code> ran twice from one seed:
                off (baseline) and on (method). No simulator runs in the demo. More: <a href="{report}">the runner's own
                report</a>.""",
                report=escape(facts["report"]),
            )
        ),
        cards(shown),
        section("openvla-graft", words("The graft")),
        paragraph(
            words("All that the packs change in openvla's files.")
            if facts["real"]
            else words("All that the packs change in the stand-in's files.")
        ),
        graft_html(facts, words),
        section("openvla-icsm", words("ICSM: which directions are fragile")),
        paragraph(
            words("""Every point is a principal direction of the instruction's hidden states. Its height says how far
            the distribution of the answer moves (KL) when the states are shifted along it. The directions of the
            largest variance (left) are not always the vulnerable ones.""")
        ),
        icsm(runner, words),
        sizes(facts["icsm"], words),
        section("openvla-drift", words("Drift, beta and gamma")),
        paragraph(
            words("""On a part of the probe set the student's states are compared with the teacher's on the same
            samples. During the cold start beta and gamma stay as given, and the drift's range is found; from then on
            more drift lets less of the plastic (beta) and the fragile (gamma) component pass.""")
        ),
        steering(runner, words),
        section("openvla-norms", words("The gradient before and after")),
        paragraph(
            words("""||g|| is the gradient that arrives at a hooked layer, &ldquo;after&rdquo; is what goes on from
            there; fragile, plastic and null are its parts before.""")
        ),
        norms(runner, words),
        section("openvla-training", words("Training")),
        paragraph(words("What <code>finetune.py</code> itself logs, every ten steps, in both arms from one seed.")),
        loss_chart(series, words("training loss, baseline and method"), words),
        table((words("arm"), words("loss")), ends),
        f"<h3>{words('Commands')}</h3>",
        table((words("stage"), words("command"), words("time")), stages),
        values((words("part"), words("version")), facts["icsm"]["versions"]),
    ]
    return "\n".join(body)
