"""Writes the chapter on starVLA: off is upstream, four stages, where the anchor looks, what guidance and RRR say."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from demo.parts import cards, graft_cards, graft_html, side_by_side, stood_in
from demo.starvla_policy import anchor, decisions, guidance, metrics
from look.charts import Line, lines
from look.markup import folded, note, panel, paragraph, section, table, values, wide
from look.words import ENGLISH, Words

COMMAND = "make starvla"
"""Fetches and grafts the real tree and builds its environment."""


def title(words: Words) -> str:
    return f'<h1 id="starvla">{words("starVLA: SA-GR Flow")}</h1>'


def which_tree(facts: dict[str, Any], words: Words) -> str:
    """Which tree ran, said first."""
    if facts["real"]:
        says = words(
            """<b>This ran on the real starVLA</b>, commit {commit}, its tree proven to be the pinned one, through its
            own trainer. The vision-language model has 0.3 million random parameters and the data are a few made-up
            episodes: this shows that the method runs in upstream's own code, not that it helps.""",
            commit=f"<code>{escape(facts['commit'])}</code>",
        )
        return note(says, "good")
    return stood_in("starVLA", facts["why"], COMMAND, words)


def third(values: Sequence[float], first: bool) -> float:
    """The mean of the first, or the last, third: batches and flow times differ from step to step."""
    count = max(1, len(values) // 3)
    part = values[:count] if first else values[-count:]
    return sum(part) / len(part)


def course(stage: dict[str, Any], name: str = "total") -> list[tuple[float, float]]:
    return [(row["step"], row[f"loss/{name}"]) for row in stage["metrics"]]


def stage_row(stage: dict[str, Any], words: Words) -> tuple[str, ...]:
    losses = [loss for _, loss in course(stage)]
    parts = [
        f"{weight:g}&thinsp;&times;&thinsp;{escape(key[2:])}" for key, weight in stage["weights"].items() if weight
    ]
    return (
        f"<b>{escape(stage['name'])}</b><br>{escape(words.of(stage['says']))}",
        " + ".join(parts),
        escape(", ".join(stage["frozen"])),
        f"{third(losses, True):.3g} \u2192 {third(losses, False):.3g}",
        f"{len(losses)}",
        f"{stage['seconds']:.0f} s",
    )


def stages_html(stages: Sequence[dict[str, Any]], words: Words) -> str:
    """The course of every stage's loss, the stages in a table, and the arguments of each."""
    total, unit = words("total"), words("loss")
    curves = (
        panel(
            stage["name"],
            lines(
                [Line(total, [course(stage)], 1)],
                words("loss of stage {stage}", stage=stage["name"]),
                unit,
                words=words,
            ),
        )
        for stage in stages
    )
    head = ("stage", "loss", "frozen", "first third \u2192 last third", "steps", "time")
    commands = values(
        (words("stage"), words("arguments")), {stage["name"]: " ".join(stage["options"]) for stage in stages}
    )
    return (
        wide(curves)
        + table([words(name) for name in head], [stage_row(stage, words) for stage in stages])
        + folded(words("Arguments of each stage"), commands)
    )


def chapter(facts: dict[str, Any], words: Words = ENGLISH) -> str:
    """The chapter from `facts`: real, why, commit, diff, overlays, off, stages, policy, versions, seconds."""
    policy, stages = facts["policy"], facts["stages"]
    energy = policy["guidance"]["energy"]
    runs = len(stages) + len(facts["off"])
    trees = (words("QwenPI, upstream's own tree"), words("the framework, switched off, grafted tree"))
    figures = [
        *graft_cards(facts, words),
        (f"{facts['seconds']:.0f} s", words("for {count} training runs and one policy", count=runs)),
        (
            f"{energy['unguided']:.3g} \u2192 {energy['guided']:.3g}",
            words("energy of the sampled chunk, without and with guidance"),
        ),
    ]
    body = [
        title(words),
        which_tree(facts, words),
        paragraph(
            words("""A flow-matching policy that looks at what the instruction names (semantic anchor), predicts how its
            actions change that geometry (world predictor), and corrects itself when the world answers otherwise
            (residual guidance, replanning). No simulator runs in the demo.""")
        ),
        cards(figures),
        section("starvla-graft", words("The graft")),
        paragraph(
            words("All that the pack changes in starVLA's files.")
            if facts["real"]
            else words("All that the pack changes in the stand-in's files.")
        ),
        graft_html(facts, words),
        section("starvla-off", words("Switched off it is the upstream")),
        paragraph(
            words("""QwenPI in the untouched tree, and the method's framework with
            <code>framework.sagr.geometry.backend: none</code> in the grafted one, trained from one seed. Losses as
            hexadecimal floats, to the last bit.""")
        ),
        side_by_side(facts["off"], trees, words),
        section("starvla-stages", words("Four stages")),
        paragraph(
            words("""Each is upstream's own <code>train_starvla.py</code> with other arguments, and starts from the
            weights of the one before. Few steps of small batches: the curves are noisy. The table compares the means of
            the first and last third.""")
        ),
        stages_html(stages, words),
        section("starvla-anchor", words("Where the anchor looks")),
        paragraph(
            words("""Attention of the slots over the geometry tokens, mean over slots, drawn by the grafted module
            itself after the last stage. Masks in the data told it where the named thing is, in all stages but dynamics
            (<code>w_ground</code>).""")
        ),
        anchor(policy, words),
        section("starvla-guidance", words("One chunk with and without guidance")),
        guidance(policy, words),
        section("starvla-replanning", words("Replanning")),
        paragraph(
            words(
                """What the controller logs after {executed} actions of the plan: with the next frame as it came, and
                with the shifted one. Above the threshold the action queue is cleared.""",
                executed=policy["executed"],
            )
        ),
        decisions(policy, words),
        section("starvla-metrics", words("Metrics")),
        metrics(stages[-1], policy, words),
        values((words("part"), words("version")), facts["versions"]),
    ]
    return "\n".join(body)
