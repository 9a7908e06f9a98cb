"""The comparison as one HTML file that loads nothing: tables, intervals, courses, and the animation."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from runners import charts
from runners.intervals import Mean
from runners.markup import document, table
from runners.openvla_report import in_words, notes
from runners.reach_world.results import Results


def page(results: Results, films: Mapping[str, bytes], remarks: tuple[str, ...] = ()) -> str:
    """The report. `films` maps a caption to a WebP animation; `remarks` are shown on top (what stood in, what is
    missing).
    """
    settings = table(
        ("setting", "value"), [(escape(k), f"<code>{escape(str(v))}</code>") for k, v in results.settings.items()]
    )
    body = f"""<h1>SA-GR Flow in the closed loop</h1>
<p>A tool must touch the object that the instruction names. In the world <b>moved</b> that object is moved in the middle
of a chunk; in <b>offset</b> the tip is not where the robot believes it to be. Means and 95 % t-intervals over training
seeds.</p>
{notes("To know", remarks, "warn")}
<h2 id="success">Success</h2>
{success_table(results)}
<div class="wide">{"".join(success_chart(results, world) for world in results.worlds)}</div>
<h2 id="recovery">Recovery and control rate</h2>
{rate_table(results)}
<div class="wide">{"".join(distance_chart(results, world) for world in results.worlds)}</div>
<h2 id="film">The same episode under several arms</h2>
{"".join(_film(caption, content) for caption, content in films.items())}
<h2 id="arms">Arms and settings</h2>
{table(("arm", "what it is"), [(f"<b>{escape(arm)}</b>", escape(results.says[arm])) for arm in results.arms])}
{settings}"""
    return document("SA-GR Flow: the closed loop", body)


def success_table(results: Results) -> str:
    """Success by arm and world, and what each arm wins back of the first arm's loss."""
    disturbed = [world for world in results.worlds if world != "calm"]
    head = ["arm", *results.worlds, *(f"recovered of what {world} costs" for world in disturbed)]
    rows = []
    for arm in results.arms:
        success = [in_words(results.mean(arm, world, "success")) for world in results.worlds]
        won = [
            in_words(results.recovered(arm, world)) if arm != (results.compared or results.arms[0]) else ""
            for world in disturbed
        ]
        rows.append([f"<b>{escape(arm)}</b>", *success, *won])
    return table(head, rows)


def rate_table(results: Results) -> str:
    """Steps, recovery, interruptions and wall time in every world."""
    rows = []
    for arm in results.arms:
        for world in results.worlds:
            found = {
                name: results.mean(arm, world, name)
                for name in ("wrong", "steps", "recovery_steps", "interruptions", "sampling_ms", "control_hz")
            }
            rows.append(
                [
                    f"<b>{escape(arm)}</b>",
                    escape(world),
                    in_words(found.pop("wrong")).split(" (")[0],
                    *(_number(mean) for mean in found.values()),
                ]
            )
    head = (
        "arm",
        "world",
        "wrong object",
        "steps to success",
        "steps from the move to success",
        "queues cleared an episode",
    )
    return table((*head, "a sampling step, ms", "control steps a second"), rows)


def _number(mean: Mean | None) -> str:
    if mean is None:
        return "none"
    return f"{mean.mean:.1f}" if mean.half is None else f"{mean.mean:.1f} ± {mean.half:.1f}"


def success_chart(results: Results, world: str) -> str:
    bars = [
        charts.Bar(arm, mean.mean, mean.half, list(results.values(arm, world, "success").values()), colour % 8)
        for colour, arm in enumerate(results.arms)
        if (mean := results.mean(arm, world, "success")) is not None
    ]
    title = f"Success in the world {world}"
    return f"<div><h3>{escape(title)}</h3>{charts.intervals(bars, title, 'share of episodes')}</div>"


def distance_chart(results: Results, world: str) -> str:
    series = [charts.Line(arm, [results.distances(arm, world)], colour % 8) for colour, arm in enumerate(results.arms)]
    title = f"Distance from tip to target in the world {world}"
    drawn = charts.lines(series, title, "cm, mean over episodes", "control step")
    return f"<div><h3>{escape(title)}</h3>{drawn}</div>"


def _film(caption: str, content: bytes) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<p>{escape(caption)}</p><p><img alt="{escape(caption)}" src="data:image/webp;base64,{data}"></p>'
