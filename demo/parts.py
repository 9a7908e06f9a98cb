"""What the chapters of the demo's report share: a graft's diff, figures in a row, two trees compared, two losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from look.charts import Line, lines
from look.markup import folded, note, paragraph, table
from look.words import ENGLISH, Words


def diff_html(diff: str) -> str:
    """A unified diff with its lines coloured, one block a file."""
    blocks = []
    for part in diff.split("diff --git ")[1:]:
        lines = part.splitlines()
        path = lines[0].split(" b/", 1)[-1]
        body = lines[next((i for i, line in enumerate(lines) if line.startswith("@@")), len(lines)) :]
        rows = "".join(f'<i class="{_diff_class(line)}">{escape(line)}</i>' for line in body)
        blocks.append(f'<h3><code>{escape(path)}</code></h3><pre class="diff"><code>{rows}</code></pre>')
    return "".join(blocks)


def _diff_class(line: str) -> str:
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same")


def changed_lines(diff: str) -> int:
    """How many lines `diff` adds or takes away, headers not counted."""
    return sum(
        line[:1] in ("+", "-")
        for part in diff.split("diff --git ")[1:]
        for line in part[part.find("\n@@") + 1 :].splitlines()
    )


def _lines(text: str, words: Words) -> str:
    count = len(text.splitlines())
    return words("1 line") if count == 1 else words("{count} lines", count=count)


def overlay_html(files: Iterable[dict[str, Any]], words: Words) -> str:
    """The new files, each to be opened: `path` and `text`."""
    return "".join(
        folded(
            f'<code>{escape(file["path"])}</code> <span class="quiet">{_lines(file["text"], words)}</span>',
            f"<pre>{escape(file['text'])}</pre>",
        )
        for file in files
    )


def graft_html(facts: Mapping[str, Any], words: Words) -> str:
    """The diff of a chapter, and the new files behind one click."""
    new = f'{words("New files")} <span class="quiet">({len(facts["overlays"])})</span>'
    return diff_html(facts["diff"]) + folded(new, overlay_html(facts["overlays"], words))


def graft_cards(facts: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    """How large the method is: what it changes, and what it adds."""
    new = sum(len(file["text"].splitlines()) for file in facts["overlays"])
    return [
        (str(changed_lines(facts["diff"])), words("changed lines in upstream files")),
        (str(new), words("lines of new modules ({count} files)", count=len(facts["overlays"]))),
    ]


def cards(shown: Iterable[tuple[str, str]]) -> str:
    """Figures side by side: (value, label) each."""
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in shown
        )
        + "</div>"
    )


def side_by_side(off: Mapping[str, Any], trees: tuple[str, str], words: Words) -> str:
    """Losses and weights of the same training in upstream's own tree and in the grafted one, switched off.

    `off` has `upstream` and `grafted`, each with `loss` (step by step) and `weights` (digests, the last is shown).
    """

    def row(name: str, one: str, other: str) -> tuple[str, ...]:
        same = words("equal") if one == other else f"<b>{words('differs')}</b>"
        return name, f"<code>{escape(one)}</code>", f"<code>{escape(other)}</code>", same

    upstream, grafted = off["upstream"], off["grafted"]
    pairs = enumerate(zip(upstream["loss"], grafted["loss"], strict=True), 1)
    rows = [row(words("loss, step {step}", step=step), *pair) for step, pair in pairs]
    rows.append(row(words("SHA-256 of all weights at the end"), upstream["weights"][-1], grafted["weights"][-1]))
    return table(("", *trees, ""), rows)


def loss_chart(series: Mapping[str, Sequence[tuple[float, float]]], title: str, words: Words) -> str:
    """Two courses of the loss: the first is the upstream as it is, and dashed; the second is the method."""
    drawn = [Line(name, [course], place, dashed=not place) for place, (name, course) in enumerate(series.items())]
    return lines(drawn, title, words("loss"), words("step"))


def pending(title: str, words: Words = ENGLISH) -> str:
    """What stands in a chapter's place until it is made: the rest of the report is whole without it."""
    return title + paragraph(
        words("Not done when this page was written: still running, or ended before its end."), "quiet"
    )


def failed(title: str, why: str, words: Words = ENGLISH) -> str:
    """The chapter of a part of the demo that did not end well."""
    says = f"<b>{words('This chapter did not end well.')}</b> {words('What it said:')}"
    return f"{title}{note(says, 'bad')}<pre>{escape(why)}</pre>"


def stood_in(upstream: str, why: str, command: str, words: Words) -> str:
    """Says that a stand-in ran in place of `upstream`, and which command runs the real one."""
    says = words(
        """<b>This ran on a stand-in, not on {upstream}</b>: {why}. The stand-in is a small model of this project's own
        with {upstream}'s layout, grafted by the same packs; its figures say nothing about {upstream}. For the real one
        run <code>{command}</code>, which fetches and grafts it and builds its environment, and then <code>make
        demo</code> again.""",
        upstream=upstream,
        why=escape(why),
        command=command,
    )
    return note(says, "warn")
