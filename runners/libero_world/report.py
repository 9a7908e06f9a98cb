"""The comparison on LIBERO as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from look.markup import document, notes, paragraph, section, table, wide
from look.words import ENGLISH, Words
from runners.reach_world.report import arms, distance_chart, rate_table, success_chart, success_table
from runners.reach_world.results import Results

Tallies = Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]


def page(results: Results, tallies: Tallies, remarks: Sequence[str], words: Words = ENGLISH) -> str:
    """The report. `tallies[arm][world][seed]` are of `evaluate.tally`; `results` hold the episodes without errors;
    `remarks` are in the page's language.
    """
    body = [
        f"<h1>{words('SA-GR Flow on LIBERO')}</h1>",
        paragraph(
            words("""In the world <b>moved</b> the object that the task is about is moved sideways in the middle of a
            chunk. Means and 95 % t-intervals over training seeds, of the episodes without an error.""")
        ),
        notes(words("To know"), remarks, "warn"),
        section("success", words("Success")),
        success_table(results, words),
        wide(success_chart(results, world, words) for world in results.worlds),
        section("episodes", words("Every evaluation")),
        paragraph(
            words("""An error is an episode in which the policy raised, or gave no chunk. It is no success, and no
            failure either.""")
        ),
        tally_table(tallies, words),
        section("recovery", words("Recovery and control rate")),
        rate_table(results, words),
        wide(distance_chart(results, world, words) for world in results.worlds),
        section("arms", words("Arms and settings")),
        arms(results, words),
    ]
    return document(words("SA-GR Flow on LIBERO"), "\n".join(body), lang=words.lang)


def tally_table(tallies: Tallies, words: Words) -> str:
    rows = []
    for arm, worlds in tallies.items():
        for world, seeds in worlds.items():
            for seed, found in seeds.items():
                counts = [str(found[name]) for name in ("episodes", "successes", "errors", "not_moved")]
                rates = [_share(found[name], words) for name in ("success_rate_completed", "success_rate")]
                kinds = "; ".join(f"{count} x {what}" for what, count in found["error_kinds"].items())
                rows.append([f"<b>{escape(arm)}</b>", escape(world), str(seed), *counts, *rates, escape(kinds)])
    head = ("arm", "world", "seed", "episodes", "successes", "errors", "target not moved")
    rest = ("success without errors", "success with errors as failures", "what was raised")
    return table([words(name) for name in (*head, *rest)], rows)


def _share(value: float | None, words: Words) -> str:
    return words("none") if value is None else f"{value:.1%}"
