"""Writes the demo's report: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from demo.charts import colour_scale, heat_map
from demo.parts import cards, diff_html, graft_cards, loss_chart, overlay_html
from look.markup import document, links, panel, paragraph, section, table, values, wide
from look.words import ENGLISH, Words

STYLE = Path(__file__).resolve().parent / "style.css"
"""What the demo's page has beyond those of the runners."""
POLICIES = {
    "distance": """A landmark's key loses {landmark:g} a token of distance, a noise key {noise:g}; beyond {window}
    tokens noise is hidden.""",
    "hierarchical": "The same, and queries of goals and landmarks do not see noise at all.",
}
"""The rules of `llamafactory.hsa.bias`, in words."""
TYPES = ("GLOBAL_CONDITION", "LANDMARK, KEY_EVENT", "NOISE, PROCESS_NOISE")
IGNORE_INDEX = -100


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


def _token_legend(words: Words) -> str:
    states = {
        " trained": words("trained: the loss sees it"),
        " feedback": words("masked because of the feedback after it"),
        "": words("prompt: never trained"),
    }
    items = (f'<li><span class="sample{kind}">{words("word")}</span>{says}</li>' for kind, says in states.items())
    return f'<ul class="legend">{"".join(items)}</ul>'


def _links(chapters: str) -> str:
    """Links to the titles of further chapters."""
    found = re.findall(r'<h1 id="(\w+)">(.*?)</h1>', chapters)
    return "\n".join(f'<a href="#{name}">{title}</a>' for name, title in found)


def _losses(runs: dict[str, Any], kind: str, words: Words) -> str:
    series = {words(state): runs[f"{kind}-{state}"]["losses"] for state in ("off", "on")}
    title = words("training loss, {kind}, methods off and on", kind=words(kind))
    return panel(words(kind), loss_chart(series, title, words))


def _bias_map(policy: str, bias: dict[str, Any], semantic_ids: Sequence[int], words: Words) -> str:
    used = words(", as in the runs below") if bias["used"] else ""
    title = words("attention bias, policy {policy}", policy=policy)
    drawn = heat_map(bias["matrix"], semantic_ids, title, words)
    says = f"<p>{escape(words(POLICIES[policy], **bias['slopes']))}</p>"
    return f"<div><h3><code>hsa_policy: {escape(policy)}</code>{used}</h3>{says}{drawn}</div>"


def _run_rows(runs: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"<b>{escape(name)}</b>",
            f"<code>{escape(run['command'])}</code>",
            f"{run['seconds']:.0f} s",
            f"{run['losses'][0][1]:.2f} \u2192 {run['losses'][-1][1]:.2f}",
        )
        for name, run in runs.items()
    ]


def _intro(facts: dict[str, Any], words: Words) -> str:
    runs, sample = facts["runs"], facts["sample"]
    masked = sum(a == IGNORE_INDEX != b for a, b in zip(sample["labels"], sample["labels_off"], strict=True))
    seconds = f"{sum(run['seconds'] for run in runs.values()):.0f} s"
    says = words(
        """This is the pinned upstream, not a copy: <code>{pin}</code>. <code>python apply.py</code> opened its seams
        and added the modules below; <code>llamafactory-cli train</code> then ran with the methods off and on.
        {when}.""",
        pin=escape(facts["pin"]),
        when=escape(facts["when"]),
    )
    shown = [
        *graft_cards(facts, words),
        (seconds, words("for {count} training runs", count=len(runs))),
        (str(masked), words("tokens of the sample below not trained because of feedback")),
    ]
    return paragraph(says) + cards(shown)


def page(facts: dict[str, Any], chapters: str = "", words: Words = ENGLISH) -> str:
    """The whole report from `facts`: diff, overlays, runs, sample, biases, versions, upstreams, pin, when.

    `chapters` is the HTML of further chapters, each beginning with its title, an `h1` with an id.
    """
    runs, sample = facts["runs"], facts["sample"]
    kinds = list(dict.fromkeys(name.rsplit("-", 1)[0] for name in runs))
    maps = (_bias_map(name, bias, sample["semantic_ids"], words) for name, bias in facts["biases"].items())
    places = {name: words(name) for name in ("graft", "attention", "masking", "training", "versions")}
    body = [
        f"<h1>{words('LLaMA-Factory, grafted and trained by its own command')}</h1>",
        _intro(facts, words),
        links(places, _links(chapters)),
        section("graft", words("The graft")),
        paragraph(
            words("""All that changed in files of the upstream. Each line calls into a module of its own;
            <code>python apply.py revert</code> takes it back.""")
        ),
        diff_html(facts["diff"]),
        f"<h3>{words('New files')}</h3>",
        overlay_html(facts["overlays"], words),
        section("attention", words("What attention is told")),
        paragraph(
            words(
                """Hierarchical semantic attention adds a bias to every attention score of the text model, by the
                semantic type of the key and its distance from the query. Computed by the grafted module itself, for the
                sample further down ({count} tokens). Bands along the axes show the semantic types.""",
                count=len(sample["tokens"]),
            )
        ),
        _legend() + colour_scale(words) + wide(maps),
        section("masking", words("What is trained, what is masked")),
        paragraph(
            words("""The first sample as the trainer gets it, through the upstream's own data pipeline with both methods
            on. An answer that the user corrected is not learnt: every label up to and including
            <code>&lt;|feedback|&gt;</code> is -100.""")
        ),
        _legend() + _token_legend(words),
        tokens_html(sample["tokens"], sample["semantic_ids"], sample["labels"], sample["labels_off"]),
        section("training", words("Training")),
        paragraph(
            words("""Tiny models with random weights, on data that the demo invents: this shows that the methods run
            inside the upstream and that training works with them, not that they are better. The two losses of a pair
            are means over different tokens, since feedback masks some, and so they are not to be compared with each
            other.""")
        ),
        wide(_losses(runs, kind, words) for kind in kinds),
        table((words("run"), words("command"), words("time"), words("loss")), _run_rows(runs)),
        section("versions", words("What it was made with")),
        values((words("part"), words("version")), facts["versions"]),
        f"<h3>{words('Upstreams')}</h3>",
        table((words("name"), words("state")), [(escape(k), escape(v)) for k, v in facts["upstreams"].items()]),
        chapters,
        paragraph(words("Again: <code>make demo</code>. Steps whose inputs are unchanged are kept."), "quiet"),
    ]
    return document(words("graft: demo report"), "\n".join(body), STYLE.read_text(encoding="utf-8"), words.lang)
