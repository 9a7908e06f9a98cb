"""Writes the chapter on starVLA: off is upstream, four stages, where the anchor looks, what guidance and RRR say."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from html import escape
from typing import Any

from demo.charts import data_url
from demo.report import cards, changed_lines, diff_html, overlay_html, side_by_side
from runners.charts import Line, lines, picture
from runners.markup import table

TITLE = '<h1 id="starvla">starVLA: SA-GR Flow</h1>'
TREES = ("QwenPI, upstream's own tree", "the framework, switched off, grafted tree")
HEAD = ("stage", "loss", "frozen", "first third \u2192 last third", "steps", "time")
COMMAND = "make starvla"
"""Fetches and grafts the real tree and builds its environment."""


def which_tree(facts: dict[str, Any]) -> str:
    """Which tree ran, said first."""
    commit = f"<code>{escape(facts['commit'])}</code>"
    if facts["real"]:
        return (
            f'<div class="note good"><b>This ran on the real starVLA</b>, commit {commit}, its tree proven to be the '
            "pinned one, through its own trainer. The vision-language model has 0.3 million random parameters and the "
            "data are a few made-up episodes: this shows that the method runs in upstream's own code, not that it "
            "helps.</div>"
        )
    return (
        f'<div class="note warn"><b>This ran on a stand-in, not on starVLA</b>: {escape(facts["why"])}. The stand-in '
        "is a small model of this project's own with starVLA's layout, grafted by the same pack; its figures say "
        f"nothing about starVLA. For the real one run <code>{COMMAND}</code>, which fetches and grafts it and builds "
        "its environment, and then <code>make demo</code> again.</div>"
    )


def third(values: Sequence[float], first: bool) -> float:
    """The mean of the first, or the last, third: batches and flow times differ from step to step."""
    count = max(1, len(values) // 3)
    part = values[:count] if first else values[-count:]
    return sum(part) / len(part)


def course(stage: dict[str, Any], name: str = "total") -> list[tuple[float, float]]:
    return [(row["step"], row[f"loss/{name}"]) for row in stage["metrics"]]


def stage_row(stage: dict[str, Any]) -> tuple[str, ...]:
    losses = [loss for _, loss in course(stage)]
    parts = [
        f"{weight:g}&thinsp;&times;&thinsp;{escape(key[2:])}" for key, weight in stage["weights"].items() if weight
    ]
    return (
        f"<b>{escape(stage['name'])}</b><br>{escape(stage['says'])}",
        " + ".join(parts),
        escape(", ".join(stage["frozen"])),
        f"{third(losses, True):.3g} \u2192 {third(losses, False):.3g}",
        f"{len(losses)}",
        f"{stage['seconds']:.0f} s",
    )


def figure(image: str, title: str, caption: str) -> str:
    """A PNG (base64) with words under it."""
    data = base64.b64decode(image)
    width, height = struct.unpack(">II", data[16:24])
    drawn = picture(width, height, title, [f'<image width="{width}" height="{height}" href="{data_url(data)}"/>'])
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def anchor(policy: dict[str, Any]) -> str:
    shown = [figure(policy["seen"], "what the camera sees", "what the camera sees")]
    for found in policy["attention"]:
        rows, columns = found["grid"]
        caption = (
            f"&ldquo;{escape(found['instruction'])}&rdquo;: the largest of {rows} &times; {columns} patches gets "
            f"{found['largest']:.1%} of the attention, an even spread would give it {found['uniform']:.1%}"
        )
        shown.append(figure(found["image"], f"attention for {found['instruction']}", caption))
    return f'<div class="pictures">{"".join(shown)}</div>'


def euler_steps(found: dict[str, Any]) -> str:
    debug = found["debug"]
    columns = (
        debug["geo/energy_trace"],
        found["drift_norm"],
        found["velocity_norm"],
        debug["geo/drift_action_cos_trace"],
    )
    rows = [
        (str(step), *(f"{value:.3g}" for value in values)) for step, values in enumerate(zip(*columns, strict=True), 1)
    ]
    return table(("Euler step", "energy E", "drift ||b||", "velocity ||v||", "cosine of b and v"), rows)


def decisions(policy: dict[str, Any]) -> str:
    """Every decision in short, and its line of the log as it is."""
    rows = [
        (
            f"<b>{escape(name)}</b>",
            f"{line['rrr']:.3g}",
            f"{line['threshold']:g}",
            f"<b>{escape(line['decision'])}</b>",
            f"<code>{escape(json.dumps(line))}</code>",
        )
        for name, line in policy["decisions"].items()
    ]
    return table(("next frame", "RRR", "threshold", "decision", "line of the log"), rows)


def metrics(stage: dict[str, Any], policy: dict[str, Any]) -> str:
    written = stage["metrics"][-1]
    rows = [(f"<code>{escape(key)}</code>", escape(shown(value))) for key, value in written.items()]
    debug = [
        (f"<code>{escape(key)}</code>", escape(shown(value))) for key, value in policy["guidance"]["debug"].items()
    ]
    return (
        f"<details open><summary>The last line of <code>metrics.jsonl</code>, stage {escape(stage['name'])} "
        f'<span class="quiet">({len(rows)})</span></summary>{table(("name", "value"), rows)}</details>'
        f"<details><summary>What <code>predict_action(return_debug_info=True)</code> adds "
        f'<span class="quiet">({len(debug)})</span></summary>{table(("name", "value"), debug)}</details>'
    )


def shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chapter(facts: dict[str, Any]) -> str:
    """The chapter from `facts`: real, why, commit, diff, overlays, off, stages, policy, versions, seconds."""
    policy, stages = facts["policy"], facts["stages"]
    guided = policy["guidance"]
    new = sum(len(file["text"].splitlines()) for file in facts["overlays"])
    energy = guided["energy"]
    lowered = f"{energy['unguided']:.3g} \u2192 {energy['guided']:.3g}"
    curves = "".join(
        f"<div><h3>{escape(stage['name'])}</h3>"
        f"{lines([Line('total', [course(stage)], 1)], 'loss of stage ' + stage['name'], 'loss')}</div>"
        for stage in stages
    )
    commands = [
        (f"<b>{escape(stage['name'])}</b>", f"<code>{escape(' '.join(stage['options']))}</code>") for stage in stages
    ]
    return f"""{TITLE}
{which_tree(facts)}
<p>A flow-matching policy that looks at what the instruction names (semantic anchor), predicts how its actions change
that geometry (world predictor), and corrects itself when the world answers otherwise (residual guidance,
replanning). No simulator runs in the demo.</p>
{
        cards(
            [
                (str(changed_lines(facts["diff"])), "changed lines in upstream files"),
                (str(new), f"lines of new modules ({len(facts['overlays'])} files)"),
                (f"{facts['seconds']:.0f} s", f"for {len(stages) + len(facts['off'])} training runs and one policy"),
                (lowered, "energy of the sampled chunk, without and with guidance"),
            ]
        )
    }
<h2 id="starvla-graft">The graft</h2>
<p>All that the pack changes in {"starVLA's" if facts["real"] else "the stand-in's"} files.</p>
{diff_html(facts["diff"])}
<details><summary>New files <span class="quiet">({len(facts["overlays"])})</span></summary>
{overlay_html(facts["overlays"])}</details>
<h2 id="starvla-off">Switched off it is the upstream</h2>
<p>QwenPI in the untouched tree, and the method's framework with <code>framework.sagr.geometry.backend: none</code> in
the grafted one, trained from one seed. Losses as hexadecimal floats, to the last bit.</p>
{side_by_side(facts["off"], TREES)}
<h2 id="starvla-stages">Four stages</h2>
<p>Each is upstream's own <code>train_starvla.py</code> with other arguments, and starts from the weights of the one
before. Few steps of small batches: the curves are noisy. The table compares the means of the first and last third.</p>
<div class="wide">{curves}</div>
{table(HEAD, [stage_row(stage) for stage in stages])}
<details><summary>Arguments of each stage</summary>{table(("stage", "arguments"), commands)}</details>
<h2 id="starvla-anchor">Where the anchor looks</h2>
<p>Attention of the slots over the geometry tokens, mean over slots, drawn by the grafted module itself after the last
stage. Masks in the data told it where the named thing is, in all stages but dynamics (<code>w_ground</code>).</p>
{anchor(policy)}
<h2 id="starvla-guidance">One chunk with and without guidance</h2>
<p>The plan holds the {policy["executed"]} actions that were executed and those that remain; then the world answers
otherwise: picture and depth are shifted sideways by a quarter of their width. From the same noise, guidance
(<code>eta: {policy["eta"]:g}</code>, <code>step: {escape(policy["step"])}</code>) changes no action by more than {
        guided["moved"]:.3g}. The energy of the finished chunk is
{energy["unguided"]:.6g} without and {energy["guided"]:.6g} with it. In each Euler step:</p>
{euler_steps(guided)}
<h2 id="starvla-replanning">Replanning</h2>
<p>What the controller logs after {policy["executed"]} actions of the plan: with the next frame as it came, and with the
shifted one. Above the threshold the action queue is cleared.</p>
{decisions(policy)}
<h2 id="starvla-metrics">Metrics</h2>
{metrics(stages[-1], policy)}
{table(("part", "version"), [(escape(k), f"<code>{escape(v)}</code>") for k, v in facts["versions"].items()])}
"""
