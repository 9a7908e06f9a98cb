"""The comparison on LIBERO as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from runners.intervals import Mean
from runners.markup import document, table
from runners.openvla_report import notes
from runners.reach_world.report import distance_chart, success_chart, success_table
from runners.reach_world.results import Results

Tallies = Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]


def page(results: Results, tallies: Tallies, remarks: Sequence[str]) -> str:
    """The report. `tallies[arm][world][seed]` are of `evaluate.tally`; `results` hold the episodes without errors."""
    arms = table(("arm", "what it is"), [(f"<b>{escape(arm)}</b>", escape(results.says[arm])) for arm in results.arms])
    settings = table(
        ("setting", "value"), [(escape(k), f"<code>{escape(str(v))}</code>") for k, v in results.settings.items()]
    )
    charts = "".join(success_chart(results, world) for world in results.worlds)
    courses = "".join(distance_chart(results, world) for world in results.worlds)
    body = f"""<h1>SA-GR Flow on LIBERO</h1>
<p>In the world <b>moved</b> the object that the task is about is moved sideways in the middle of a chunk. Means and
95 % t-intervals over training seeds, of the episodes without an error.</p>
{notes("To know", remarks, "warn")}
<h2 id="success">Success</h2>
{success_table(results)}
<div class="wide">{charts}</div>
<h2 id="episodes">Every evaluation</h2>
<p>An error is an episode in which the policy raised, or gave no chunk. It is no success, and no failure either.</p>
{tally_table(tallies)}
<h2 id="recovery">Recovery and control rate</h2>
{rate_table(results)}
<div class="wide">{courses}</div>
<h2 id="arms">Arms and settings</h2>
{arms}
{settings}"""
    return document("SA-GR Flow on LIBERO", body)


def tally_table(tallies: Tallies) -> str:
    rows = []
    for arm, worlds in tallies.items():
        for world, seeds in worlds.items():
            for seed, found in seeds.items():
                counts = [str(found[name]) for name in ("episodes", "successes", "errors", "not_moved")]
                rates = [_share(found[name]) for name in ("success_rate_completed", "success_rate")]
                kinds = "; ".join(f"{count} x {what}" for what, count in found["error_kinds"].items())
                rows.append([f"<b>{escape(arm)}</b>", escape(world), str(seed), *counts, *rates, escape(kinds)])
    head = ("arm", "world", "seed", "episodes", "successes", "errors", "target not moved")
    return table((*head, "success without errors", "success with errors as failures", "what was raised"), rows)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def rate_table(results: Results) -> str:
    """Steps, recovery, interruptions and wall time, the way through the pipe included."""
    names = ("steps", "recovery_steps", "interruptions", "sampling_ms", "control_hz")
    rows = [
        [f"<b>{escape(arm)}</b>", escape(world), *(_number(results.mean(arm, world, name)) for name in names)]
        for arm in results.arms
        for world in results.worlds
    ]
    head = ("arm", "world", "steps to success", "steps from the move to success", "queues cleared an episode")
    return table((*head, "a sampling step, ms", "control steps a second"), rows)


def _number(mean: Mean | None) -> str:
    if mean is None:
        return "none"
    return f"{mean.mean:.1f}" if mean.half is None else f"{mean.mean:.1f} ± {mean.half:.1f}"
