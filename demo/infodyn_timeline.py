"""The schedule as a picture: which task was trained when, and for what kind of reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from look.axes import picture, room
from look.words import Words

WIDTH = 460
"""Narrow, so that letters stay readable where a phone shrinks the picture."""
KINDS = {
    "cold": "never trained before",
    "floor": "has waited too long",
    "review": "grokked, looked at again",
    "score": "ranks first by the policy",
    "cycle": "all grokked, on in order",
    "end": "all grokked",
}
"""The kinds of a choice, as `infodyn.dynamic_scheduler` names them."""
TOLD = ("step", "task", "kind", "reason")


def timeline(choices: Sequence[Mapping[str, Any]], tasks: Sequence[str], words: Words) -> str:
    """A row for each task, a column for each choice; the letter is the kind of the choice's reason."""
    left, top, row = max(map(room, tasks)) + 14, 6, 30
    cell = (WIDTH - left - 4) / len(choices)
    every = 1 + len(choices) // 10
    parts = []
    for place, task in enumerate(tasks):
        y = top + row * place
        parts.append(f'<text x="{left - 8:.1f}" y="{y + row / 2 + 4:.0f}" text-anchor="end">{escape(task)}</text>')
        parts.append(f'<path class="grid" d="M{left:.1f} {y + row / 2:.0f}H{WIDTH - 4}"/>')
    bottom = top + row * len(tasks)
    for number, choice in enumerate(choices):
        place = tasks.index(choice["task"])
        x, y = left + cell * number, top + row * place
        told = words("step {step}, {task}: {kind}, {reason}", **{key: choice[key] for key in TOLD})
        parts.append(
            f'<rect class="dot series{1 + place}" x="{x + 0.5:.1f}" y="{y + 2}" width="{cell - 1:.1f}" '
            f'height="{row - 4}" rx="3"><title>{escape(told)}</title></rect>'
            f'<text class="inside" x="{x + cell / 2:.1f}" y="{y + row / 2 + 4:.0f}" text-anchor="middle">'
            f"{escape(choice['kind'][0])}</text>"
        )
        if number % every == 0:
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{choice["step"]}</text>')
    parts.append(
        f'<text x="{left + (WIDTH - left) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">'
        f"{words('optimizer step')}</text>"
    )
    kinds = dict.fromkeys(choice["kind"] for choice in choices)
    legend = "".join(
        f"<li><b>{escape(kind[0])}</b>&ensp;{escape(kind)}: {escape(words(KINDS[kind]))}</li>" for kind in kinds
    )
    drawn = picture(WIDTH, bottom + 42, words("which task was trained when"), parts, "chart timeline")
    return f'{drawn}<ul class="legend">{legend}</ul>'
