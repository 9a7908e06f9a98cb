"""What the chapter on information dynamics shows of the analysis: pictures and numbers of every pair of experts."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from look.markup import folded, note, paragraph, table, wide
from look.words import Words

COMMAND = "make infodyn"
"""Builds the environment of the analysis."""


def image(svg: str, caption: str) -> str:
    """A picture of the runner's, which brings its own style, light and dark."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    drawn = f'<img class="oid" alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}"/>'
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def pairs(found: dict[str, Any], words: Words) -> str:
    """Synergy and redundancy of every pair and epoch, with 95 % intervals."""
    rows = []
    for pair in found["pairs"]:
        names = [pair[side].rpartition(".")[2] for side in "ij"]
        cells = [
            f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}] {escape(words.of(value['unit']))}"
            for value in pair["values"].values()
        ]
        state = words("singular: not to be trusted") if pair["singular"] else ""
        rows.append((pair["epoch"], *names, pair["rows"], *(cells or [escape(pair["problem"]), ""]), state))
    head = (words("after chunk"), "i", "j", words("rows"), words("synergy"), words("redundancy"), "")
    return table(head, rows)


def omega_id(facts: dict[str, Any], words: Words) -> str:
    if not facts["oid"]:
        says = words(
            """Probed, not analysed: the environment with omegaid is not built. <code>{command}</code> builds it, and
            then <code>make demo</code> again.""",
            command=COMMAND,
        )
        return note(says, "warn")
    kinds = {"Syn": words("synergy"), "Red": words("redundancy")}
    parts = []
    for task, found in facts["oid"].items():
        shown = {
            epoch: "".join(
                image(svg, words("{what}, after {epoch} chunks", what=f"{task}: {kinds[kind]}", epoch=epoch))
                for kind, svg in maps.items()
            )
            for epoch, maps in found["maps"].items()
        }
        *earlier, last = shown.values()
        parts.append(f"<h3>{escape(task)}</h3>{wide([last], 'pictures')}")
        if earlier:
            before = words("Earlier: after {epochs} chunks", epochs=words.joined(list(shown)[:-1]))
            parts.append(folded(before, wide(earlier, "pictures")))
        parts.append(folded(words("Numbers of every pair"), pairs(found, words)))
        link = words("All 16 atoms of {task}", task=escape(task))
        parts.append(paragraph(f'<a href="{escape(found["page"])}">{link}</a>'))
    return "".join(parts)
