"""Writes the chapter on openvla: what changed upstream, which directions are fragile, and what the surgery did."""

from __future__ import annotations

from html import escape
from typing import Any

from demo.charts import line_chart
from demo.report import cards, changed_lines, diff_html, overlay_html
from runners.markup import table
from runners.openvla_arms import ARMS
from runners.openvla_facts import Facts
from runners.openvla_report import icsm, norms, steering

TITLE = '<h1 id="openvla">openvla: gradient surgery</h1>'
COMMAND = "make openvla"
"""Fetches and grafts the real tree and builds its environment."""


def which_tree(facts: dict[str, Any]) -> str:
    """Which tree ran, said first."""
    commit = f"<code>{escape(facts['commit'])}</code>"
    if facts["real"]:
        return (
            f'<div class="note good"><b>This ran on the real openvla</b>, commit {commit}, its tree proven to be '
            "the pinned one. The model has 16 million random parameters and loads as openvla-7b does, and the data are "
            "a few made-up episodes: this shows that the method runs in upstream's own code, not that it helps.</div>"
        )
    return (
        f'<div class="note warn"><b>This ran on a stand-in, not on openvla</b>: {escape(facts["why"])}. The stand-in '
        "is a small model of this project's own with openvla's layout, grafted by the same packs; its figures say "
        f"nothing about openvla. For the real one run <code>{COMMAND}</code>, which fetches and grafts it and builds "
        "its environment, and then <code>make demo</code> again.</div>"
    )


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


def sizes(meta: dict[str, Any]) -> str:
    """How many directions of each layer are Fragile, Plastic and Null."""
    rows = []
    for number, layer in meta["layers"].items():
        fragile, plastic = int(layer["fragile"]), int(layer["plastic"])
        shared = ", ".join(map(str, layer["members"]))
        null = len(layer["order"]) - fragile - plastic
        rows.append((f"{escape(str(number))}", escape(shared), str(fragile), str(plastic), str(null)))
    return table(("layer", "used for layers", "Fragile", "Plastic", "Null"), rows)


def damping(trace: list[dict[str, Any]]) -> str:
    """The mean share of the gradient's norm that the surgery left, over steps and layers."""
    found = [one["g_after"] / one["g"] for row in trace for one in (row.get("norms") or {}).values() if one["g"] > 0]
    return f"{sum(found) / len(found):.0%}" if found else "none recorded"


def chapter(facts: dict[str, Any]) -> str:
    """The chapter from `facts`: real, why, commit, diff, overlays, icsm, trace, losses, stages, report."""
    runner = as_runner(facts)
    new = sum(len(file["text"].splitlines()) for file in facts["overlays"])
    series = {arm: [(int(step), loss) for step, loss in found] for arm, found in facts["losses"].items()}
    stages = [
        (
            f"<b>{escape(stage['name'])}</b>",
            f"<code>{escape(stage['command'])}</code>",
            f"{stage['seconds']:.0f} s",
        )
        for stage in facts["stages"]
    ]
    ends = [(arm, f"{line[0][1]:.3f} \u2192 {line[-1][1]:.3f}") for arm, line in series.items()]
    return f"""{TITLE}
{which_tree(facts)}
<p>Fine-tuning wears down what a model knows. Before it, the method looks for the directions of hidden states on which
the model's answers hang (ICSM); while it runs, it damps the gradient along these (HSW), more the further the states
have drifted (Thermostat). <code>finetune.py</code> ran twice from one seed: off (baseline) and on (method). No
simulator runs in the demo. More: <a href="{escape(facts["report"])}">the runner's own report</a>.</p>
{
        cards(
            [
                (str(changed_lines(facts["diff"])), "changed lines in upstream files"),
                (str(new), f"lines of new modules ({len(facts['overlays'])} files)"),
                (f"{sum(stage['seconds'] for stage in facts['stages']):.0f} s", f"for {len(stages)} stages"),
                (damping(facts["trace"]), "of the gradient's norm left at the hooked layers, mean"),
            ]
        )
    }
<h2 id="openvla-graft">The graft</h2>
<p>All that the packs change in {"openvla's" if facts["real"] else "the stand-in's"} files.</p>
{diff_html(facts["diff"])}
<details><summary>New files <span class="quiet">({len(facts["overlays"])})</span></summary>
{overlay_html(facts["overlays"])}</details>
<h2 id="openvla-icsm">ICSM: which directions are fragile</h2>
<p>Every point is a principal direction of the instruction's hidden states. Its height says how far the distribution of
the answer moves (KL) when the states are shifted along it. The directions of the largest variance (left) are not
always the vulnerable ones.</p>
{icsm(runner)}
{sizes(facts["icsm"])}
<h2 id="openvla-drift">Drift, beta and gamma</h2>
<p>On a part of the probe set the student's states are compared with the teacher's on the same samples. During the cold
start beta and gamma stay as given, and the drift's range is found; from then on more drift lets less of the plastic
(beta) and the fragile (gamma) component pass.</p>
{steering(runner)}
<h2 id="openvla-norms">The gradient before and after</h2>
<p>||g|| is the gradient that arrives at a hooked layer, &ldquo;after&rdquo; is what goes on from there; fragile,
plastic and null are its parts before.</p>
{norms(runner)}
<h2 id="openvla-training">Training</h2>
<p>What <code>finetune.py</code> itself logs, every ten steps, in both arms from one seed.</p>
{line_chart(series, "training loss, baseline and method")}
{table(("arm", "loss"), [(f"<b>{escape(arm)}</b>", shown) for arm, shown in ends])}
<h3>Commands</h3>
{table(("stage", "command", "time"), stages)}
{table(("part", "version"), [(escape(k), f"<code>{escape(v)}</code>") for k, v in facts["icsm"]["versions"].items()])}
"""
