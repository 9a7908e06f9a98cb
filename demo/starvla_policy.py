"""What the chapter on starVLA shows of a policy at work: its attention, one guided chunk, decisions, debug values."""

from __future__ import annotations

import base64
import json
import struct
from html import escape
from typing import Any

from demo.charts import data_url
from look.axes import picture
from look.markup import folded, paragraph, table, wide
from look.words import Words


def figure(image: str, title: str, caption: str) -> str:
    """A PNG (base64) with words under it."""
    data = base64.b64decode(image)
    width, height = struct.unpack(">II", data[16:24])
    drawn = picture(width, height, title, [f'<image width="{width}" height="{height}" href="{data_url(data)}"/>'])
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def anchor(policy: dict[str, Any], words: Words) -> str:
    seen = words("what the camera sees")
    pictures = [figure(policy["seen"], seen, seen)]
    for found in policy["attention"]:
        rows, columns = found["grid"]
        caption = words(
            """&ldquo;{instruction}&rdquo;: the largest of {rows} &times; {columns} patches gets {largest:.1%} of the
            attention, an even spread would give it {uniform:.1%}""",
            instruction=escape(found["instruction"]),
            rows=rows,
            columns=columns,
            largest=found["largest"],
            uniform=found["uniform"],
        )
        pictures.append(
            figure(found["image"], words("attention for {instruction}", instruction=found["instruction"]), caption)
        )
    return wide(pictures, "pictures")


def euler_steps(found: dict[str, Any], words: Words) -> str:
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
    names = ("Euler step", "energy E", "drift ||b||", "velocity ||v||", "cosine of b and v")
    return table([words(name) for name in names], rows)


def guidance(policy: dict[str, Any], words: Words) -> str:
    guided = policy["guidance"]
    says = words(
        """The plan holds the {executed} actions that were executed and those that remain; then the world answers
        otherwise: picture and depth are shifted sideways by a quarter of their width. From the same noise, guidance
        (<code>eta: {eta:g}</code>, <code>step: {step}</code>) changes no action by more than {moved:.3g}. The energy of
        the finished chunk is {unguided:.6g} without and {guided:.6g} with it. In each Euler step:""",
        executed=policy["executed"],
        eta=policy["eta"],
        step=escape(policy["step"]),
        moved=guided["moved"],
        **guided["energy"],
    )
    return paragraph(says) + euler_steps(guided, words)


def decisions(policy: dict[str, Any], words: Words) -> str:
    """Every decision in short, and its line of the log as it is."""
    rows = [
        (
            f"<b>{escape(words(name))}</b>",
            f"{line['rrr']:.3g}",
            f"{line['threshold']:g}",
            f"<b>{escape(words.of(line['decision']))}</b>",
            f"<code>{escape(json.dumps(line))}</code>",
        )
        for name, line in policy["decisions"].items()
    ]
    return table([words(name) for name in ("next frame", "RRR", "threshold", "decision", "line of the log")], rows)


def metrics(stage: dict[str, Any], policy: dict[str, Any], words: Words) -> str:
    written, debug = stage["metrics"][-1], policy["guidance"]["debug"]
    head = (words("name"), words("value"))
    last = words("The last line of <code>metrics.jsonl</code>, stage {stage}", stage=escape(stage["name"]))
    added = words("What <code>predict_action(return_debug_info=True)</code> adds")
    tables = []
    for summary, found in ((last, written), (added, debug)):
        rows = [(f"<code>{escape(key)}</code>", escape(shown(value))) for key, value in found.items()]
        told = f'{summary} <span class="quiet">({len(found)})</span>'
        tables.append(folded(told, table(head, rows), opened=found is written))
    return "".join(tables)


def shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
