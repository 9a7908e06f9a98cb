"""The timeline of ``survive`` as one HTML file: commit by commit, a lane for graft and one for each textual tool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

from graft.trials import BROKEN, STANDS, Survival, Trial
from look.markup import document, folded, paragraph, table
from look.words import ENGLISH, Words

# What a cell says, and how: height and pattern tell as much as colour does.
STATES = {
    "ok": "applies, every edit where it belongs",
    "off": "applies, but lands elsewhere",
    "no": "does not apply",
    "aside": "set aside: a definition does not exist yet, or no more",
}
DENSE = 150
"""More commits than this are drawn without gaps."""

STYLE, SCRIPT = (Path(__file__).with_name(f"timeline.{kind}") for kind in ("css", "js"))


def page(result: Survival, words: Words = ENGLISH) -> str:
    """A self-contained page: no network, light and dark, readable on a phone and without colours."""
    trials = result.trials
    start = next((n for n, trial in enumerate(trials) if trial.verdict == BROKEN), len(trials) - 1)
    data = json.dumps([_datum(number, result, words) for number in range(len(trials))]).replace("<", "\\u003c")
    title = words(
        "{upstream}, {span}: the packs at {count} commits",
        upstream=result.upstream,
        span=result.span,
        count=len(trials),
    )
    body = f"""<main{' class="dense"' if len(trials) > DENSE else ""}>
<h1>{escape(result.upstream)}, {escape(result.span)}</h1>
{"".join(paragraph(escape(line), "quiet") for line in _about(result, words))}
{"".join(_lanes(result, words))}
<ul class="legend">{_key(result, words)}</ul>
<div class="shown" id="shown" aria-live="polite"></div>
{_table(result, words)}
</main><script>const DATA = {data}, START = {start};
{SCRIPT.read_text(encoding="utf-8")}</script>"""
    return document(title, body, STYLE.read_text(encoding="utf-8"), words.lang)


def _about(result: Survival, words: Words) -> Iterator[str]:
    yield words("{count} upstream commits touch the files that the packs edit.", count=len(result.trials))
    if result.aside:
        yield words("{count} are set aside, since a definition is in no file of theirs.", count=len(result.aside))
    if result.pin and result.tools:
        yield words("The textual tools get the diff made at the pin, {pin}.", pin=result.pin)


def _state(trial: Trial, lane: str) -> str:
    if lane == "graft":
        return {STANDS: "ok", BROKEN: "no"}.get(trial.verdict, "aside")
    return "no" if not trial.textual[lane] else "ok" if trial.right[lane] else "off"


def _lanes(result: Survival, words: Words) -> Iterator[str]:
    judged, applied, right = len(result.judged), result.textual(), result.right()
    for lane in ("graft", *result.tools):
        cells = "".join(
            f'<i class="{_state(trial, lane)}" title="{escape(str(trial.commit), quote=True)}"></i>'
            for trial in result.trials
        )
        if lane == "graft":
            share, note = result.rate, words("of {count}", count=judged)
        else:
            share, note = applied.get(lane), words("{share:.1%} in place", share=right[lane]) if lane in right else ""
        rate = words("none") if share is None else f"{share:.1%}"
        yield (
            f'<div class="lane"><code class="name">{escape(lane)}</code><div class="cells">{cells}</div>'
            f'<span class="rate">{rate}<small>{note}</small></span></div>\n'
        )
    yield f'<div class="lane"><span></span><div class="months">{_months(result, words)}</div><span></span></div>\n'


def _months(result: Survival, words: Words, most: int = 5) -> str:
    """The month at evenly spread commits, and the pin; the distance is in commits, not in days."""
    trials, count = result.trials, len(result.trials)
    marks = [n for n in range(0, count, max(count // most, 1)) if n == 0 or n <= count * 0.85]
    spans = [f'<span style="left:{100 * n / count:.2f}%">{trials[n].commit.date[:7]}</span>' for n in marks]
    if result.pin is not None:
        share = sum(trial.commit.moment <= result.pin.moment for trial in trials) / max(count, 1)
        # Its word stands on the side where there is room.
        kind, place = (
            ("pin", f"left:{100 * share:.2f}%") if share < 0.7 else ("pin late", f"right:{100 - 100 * share:.2f}%")
        )
        spans += [f'<span class="{kind}" style="{place}">{words("pin")}</span>'] if 0 < share < 1 else []
    return "".join(spans)


def _key(result: Survival, words: Words) -> str:
    used = {_state(trial, lane) for trial in result.trials for lane in ("graft", *result.tools)}
    return "".join(f'<li><i class="{kind}"></i>{words(says)}</li>' for kind, says in STATES.items() if kind in used)


def _why(trial: Trial, words: Words) -> list[str]:
    gone = [words("in no file: {name}", name=name) for name in trial.missing]
    return [*gone, *(f"{failure.definition} {failure}".strip() for failure in trial.failures)]


def _datum(number: int, result: Survival, words: Words) -> dict[str, object]:
    """What the card shows of one commit."""
    trial, count = result.trials[number], len(result.trials)
    commit = trial.commit
    return {
        "subject": commit.subject,
        "head": words(
            "{id}, {day}, {number} of {count}", id=commit.id[:10], day=commit.day, number=number + 1, count=count
        ),
        "lanes": [[lane, words(STATES[_state(trial, lane)])] for lane in ("graft", *result.tools)],
        "why": _why(trial, words),
    }


def _table(result: Survival, words: Words) -> str:
    """What is not whole, in words, for whoever has no pointer or no script."""
    odd = [trial for trial in result.trials if trial.verdict != STANDS]
    if not odd:
        whole = words("At every one of these commits each edit is located once, applied and proven.")
        return paragraph(escape(whole), "quiet")
    rows = [
        (
            trial.commit.day,
            f"<code>{trial.commit.id[:10]}</code>",
            f'{escape(trial.commit.subject)}<br><span class="quiet">{escape(words(trial.verdict))}<br>'
            f"{'<br>'.join(map(escape, _why(trial, words)))}</span>",
        )
        for trial in odd
    ]
    count = words("{broken} broken, {aside} set aside", broken=len(result.broken), aside=len(result.aside))
    return folded(escape(count), table([words("day"), words("commit"), words("what happens")], rows))
