"""Writes the demo's report: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from demo.charts import colour_scale, heat_map, line_chart
from runners.markup import document, table

STYLE = Path(__file__).resolve().parent / "style.css"
"""What the demo's page has beyond those of the runners."""
TYPES = ("GLOBAL_CONDITION", "LANDMARK, KEY_EVENT", "NOISE, PROCESS_NOISE")
IGNORE_INDEX = -100


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


def _lines(text: str) -> str:
    number = len(text.splitlines())
    return f"{number} line{'' if number == 1 else 's'}"


def overlay_html(files: Iterable[dict[str, Any]]) -> str:
    """The new files, each to be opened: `path` and `text`."""
    return "".join(
        f"<details><summary><code>{escape(file['path'])}</code> "
        f'<span class="quiet">{_lines(file["text"])}</span></summary>'
        f"<pre>{escape(file['text'])}</pre></details>"
        for file in files
    )


def tokens_html(tokens: Sequence[str], types: Sequence[int], labels: Sequence[int], labels_off: Sequence[int]) -> str:
    """One sample: colour is the semantic type, underlined is trained, struck out is masked by feedback alone."""
    spans = []
    for text, kind, label, label_off in zip(tokens, types, labels, labels_off, strict=True):
        state = "trained" if label != IGNORE_INDEX else "feedback" if label_off != IGNORE_INDEX else "prompt"
        shown = escape(text.replace("\n", "\u21b5"))
        spans.append(f'<span class="type{kind} {state}">{shown}</span>' + ("<br>" if text.endswith("\n") else ""))
    return f'<div class="tokens">{"".join(spans)}</div>'


def _legend() -> str:
    kinds = "".join(f'<li><span class="type{kind}"></span>{escape(name)}</li>' for kind, name in enumerate(TYPES))
    return f'<ul class="legend">{kinds}</ul>'


def _token_legend() -> str:
    return (
        '<ul class="legend"><li><span class="sample trained">word</span>trained: the loss sees it</li>'
        '<li><span class="sample feedback">word</span>masked because of the feedback after it</li>'
        '<li><span class="sample">word</span>prompt: never trained</li></ul>'
    )


def cards(shown: Iterable[tuple[str, str]]) -> str:
    """Figures side by side: (value, label) each."""
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in shown
        )
        + "</div>"
    )


def side_by_side(off: Mapping[str, Any], trees: tuple[str, str]) -> str:
    """Losses and weights of the same training in upstream's own tree and in the grafted one, switched off.

    `off` has `upstream` and `grafted`, each with `loss` (step by step) and `weights` (digests, the last is shown).
    """

    def row(name: str, one: str, other: str) -> tuple[str, ...]:
        same = "equal" if one == other else "<b>differs</b>"
        return name, f"<code>{escape(one)}</code>", f"<code>{escape(other)}</code>", same

    upstream, grafted = off["upstream"], off["grafted"]
    pairs = enumerate(zip(upstream["loss"], grafted["loss"], strict=True), 1)
    rows = [row(f"loss, step {step}", *pair) for step, pair in pairs]
    rows.append(row("SHA-256 of all weights at the end", upstream["weights"][-1], grafted["weights"][-1]))
    return table(("", *trees, ""), rows)


def pending(title: str) -> str:
    """What stands in a chapter's place until it is made: the rest of the report is whole without it."""
    return f'{title}<p class="quiet">Not done when this page was written: still running, or ended before its end.</p>'


def failed(title: str, why: str) -> str:
    """The chapter of a part of the demo that did not end well."""
    says = '<div class="note bad"><b>This chapter did not end well.</b> What it said:</div>'
    return f"{title}{says}<pre>{escape(why)}</pre>"


def _links(chapters: str) -> str:
    """Links to the titles of further chapters."""
    found = re.findall(r'<h1 id="(\w+)">(.*?)</h1>', chapters)
    return "\n".join(f'<a href="#{name}">{title}</a>' for name, title in found)


def _losses(runs: dict[str, Any], kind: str) -> str:
    series = {state: [(int(step), loss) for step, loss in runs[f"{kind}-{state}"]["losses"]] for state in ("off", "on")}
    return f"<div><h3>{kind}</h3>{line_chart(series, f'training loss, {kind}, methods off and on')}</div>"


def _bias_map(policy: str, bias: dict[str, Any], semantic_ids: Sequence[int]) -> str:
    used = ", as in the runs below" if bias["used"] else ""
    picture = heat_map(bias["matrix"], semantic_ids, f"attention bias, policy {policy}")
    return f"<div><h3><code>hsa_policy: {escape(policy)}</code>{used}</h3><p>{escape(bias['says'])}</p>{picture}</div>"


def page(facts: dict[str, Any], chapters: str = "") -> str:
    """The whole report from `facts`: diff, overlays, runs, sample, biases, versions, upstreams, pin, when.

    `chapters` is the HTML of further chapters, each beginning with its title, an `h1` with an id.
    """
    diff, runs, sample = facts["diff"], facts["runs"], facts["sample"]
    kinds = list(dict.fromkeys(name.rsplit("-", 1)[0] for name in runs))
    shown = sum(len(file["text"].splitlines()) for file in facts["overlays"])
    masked = sum(a == IGNORE_INDEX != b for a, b in zip(sample["labels"], sample["labels_off"], strict=True))
    maps = "".join(_bias_map(name, bias, sample["semantic_ids"]) for name, bias in facts["biases"].items())
    run_rows = [
        (
            f"<b>{escape(name)}</b>",
            f"<code>{escape(run['command'])}</code>",
            f"{run['seconds']:.0f} s",
            f"{run['losses'][0][1]:.2f} \u2192 {run['losses'][-1][1]:.2f}",
        )
        for name, run in runs.items()
    ]
    body = f"""<h1>LLaMA-Factory, grafted and trained by its own command</h1>
<p>This is the pinned upstream, not a copy: <code>{
        escape(facts["pin"])
    }</code>. <code>python apply.py</code> opened its seams and
added the modules below; <code>llamafactory-cli train</code> then ran with the methods off and on. {
        escape(facts["when"])
    }.</p>
{
        cards(
            [
                (str(changed_lines(diff)), "changed lines in upstream files"),
                (f"{shown}", f"lines of new modules ({len(facts['overlays'])} files)"),
                (f"{sum(run['seconds'] for run in runs.values()):.0f} s", f"for {len(runs)} training runs"),
                (str(masked), "tokens of the sample below not trained because of feedback"),
            ]
        )
    }
<nav><a href="#graft">graft</a> <a href="#attention">attention</a> <a href="#masked">masking</a>
<a href="#training">training</a> <a href="#made">versions</a>
{_links(chapters)}</nav>
<h2 id="graft">The graft</h2>
<p>All that changed in files of the upstream. Each line calls into a module of its own;
<code>python apply.py revert</code> takes it back.</p>
{diff_html(diff)}
<h3>New files</h3>
{overlay_html(facts["overlays"])}
<h2 id="attention">What attention is told</h2>
<p>Hierarchical semantic attention adds a bias to every attention score of the text model, by the semantic type of the
key and its distance from the query. Computed by the grafted module itself, for the sample further down
({len(sample["tokens"])} tokens). Bands along the axes show the semantic types.</p>
{_legend()}{colour_scale()}
<div class="wide">{maps}</div>
<h2 id="masked">What is trained, what is masked</h2>
<p>The first sample as the trainer gets it, through the upstream's own data pipeline with both methods on. An answer
that the user corrected is not learnt: every label up to and including <code>&lt;|feedback|&gt;</code> is -100.</p>
{_legend()}{_token_legend()}
{tokens_html(sample["tokens"], sample["semantic_ids"], sample["labels"], sample["labels_off"])}
<h2 id="training">Training</h2>
<p>Tiny models with random weights, on data that the demo invents: this shows that the methods run inside the upstream
and that training works with them, not that they are better. The two losses of a pair are means over different tokens,
since feedback masks some, and so they are not to be compared with each other.</p>
<div class="wide">{"".join(_losses(runs, kind) for kind in kinds)}</div>
{table(("run", "command", "time", "loss"), run_rows)}
<h2 id="made">What it was made with</h2>
{table(("part", "version"), [(escape(k), f"<code>{escape(v)}</code>") for k, v in facts["versions"].items()])}
<h3>Upstreams</h3>
{table(("name", "state"), [(escape(k), escape(v)) for k, v in facts["upstreams"].items()])}
{chapters}
<p class="quiet">Again: <code>make demo</code>. Steps whose inputs are unchanged are kept.</p>"""
    return document("graft: demo report", body, STYLE.read_text(encoding="utf-8"))
