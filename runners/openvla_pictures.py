"""What the report of a comparison on openvla draws: scores, drift and steering, norms of gradients, directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from look import charts
from look.axes import Point
from look.markup import legend, panel, paragraph, wide
from look.words import Words
from runners.openvla_facts import Facts
from runners.openvla_scores import ArmScores, forgetting_of

FRAGILE, PLASTIC, NULL = 1, 3, 0
"""Colours of the three parts, in every picture."""

NORMS = {"g": ("||g||", 2), "g_after": ("after", 4), "gn": ("null", NULL), "gp": ("plastic", PLASTIC)}
NORMS["gf"] = ("fragile", FRAGILE)
"""Names of the norms in metrics.jsonl, and their names and colours in the charts."""


def bars(facts: Facts, kind: str) -> list[charts.Bar]:
    found = []
    for colour, arm in enumerate(facts.arms):
        scores = facts.scores[arm.name]
        mean = scores.success if kind == "success" else scores.forgetting
        if mean is not None:
            found.append(charts.Bar(arm.name, mean.mean, mean.half, _values(scores, facts, kind), colour))
    return found


def _values(scores: ArmScores, facts: Facts, kind: str) -> list[float]:
    if kind == "success":
        return [one[facts.suite].success for one in scores.seeds.values() if facts.suite in one]
    lost = [forgetting_of(facts.before, one, facts.general) for one in scores.seeds.values()]
    return [value for value in lost if value is not None]


def trace(rows: Iterable[Mapping[str, Any]], key: str) -> list[Point]:
    """(step, value) of every row that has a number under `key`."""
    return [(float(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), (int, float))]


def steering(facts: Facts, words: Words) -> str:
    """Drift, beta and gamma over steps: a colour an arm, a line a seed."""
    parts = []
    for key, label, unit in (
        ("mean_drift", "Drift", words("relative drift, ||C_S - C_T|| / ||C_T||")),
        ("beta", "beta: what stays of the plastic component", "beta"),
        ("gamma", "gamma: what stays of the fragile component", "gamma"),
    ):
        series = [
            charts.Line(arm.name, [trace(rows, key) for rows in facts.traces[arm.name].values()], colour)
            for colour, arm in enumerate(facts.arms)
            if arm.name in facts.traces
        ]
        title = words(label)
        parts.append(panel(title, charts.lines(series, title, unit, words=words)))
    return wide(parts)


def norms(facts: Facts, words: Words) -> str:
    """Norms of the gradient and its parts over steps: one chart for every arm and hooked layer, a line a seed."""
    parts = []
    for arm, seeds in facts.traces.items():
        layers: dict[str, dict[str, dict[int, list[Point]]]] = {}
        for seed, rows in seeds.items():
            for row in rows:
                for layer, found in (row.get("norms") or {}).items():
                    for name, value in found.items():
                        course = layers.setdefault(str(layer), {}).setdefault(name, {}).setdefault(seed, [])
                        course.append((float(row["step"]), float(value)))
        for layer, found in layers.items():
            series = [
                charts.Line(words(word), list(found[name].values()), colour)
                for name, (word, colour) in NORMS.items()
                if name in found
            ]
            title = words("{arm}, layer {layer}", arm=arm, layer=layer)
            parts.append(panel(title, charts.lines(series, title, words("norm"), words=words)))
    return wide(parts or [paragraph(words("No arm recorded norms."), "quiet")])


def split_of(layer: Mapping[str, Any]) -> dict[int, list[Point]]:
    """(index of the singular value, vulnerability) by part: `order` begins with Fragile, then Plastic, then Null."""
    fragile, plastic = int(layer["fragile"]), int(layer["plastic"])
    groups: dict[int, list[Point]] = {FRAGILE: [], PLASTIC: [], NULL: []}
    for rank, index in enumerate(layer["order"]):
        part = FRAGILE if rank < fragile else PLASTIC if rank < fragile + plastic else NULL
        groups[part].append((float(index), float(layer["vulnerabilities"][index])))
    return groups


def icsm(facts: Facts, words: Words) -> str:
    """Vulnerability against the index of the singular value, for every representative layer of every ranking."""
    parts = []
    for rank_by, meta in facts.icsm.items():
        for number, layer in meta["layers"].items():
            title = words("ranked by {rank_by}, layer {layer}", rank_by=rank_by, layer=number)
            if not layer["vulnerabilities"]:
                parts.append(panel(title, paragraph(words("A random basis: nothing to rank."), "quiet")))
                continue
            across, up = words("index of the singular value"), words("vulnerability (KL)")
            parts.append(panel(title, charts.points_on_log(split_of(layer), title, across, up, words=words)))
    names = {words("Fragile"): FRAGILE, words("Plastic"): PLASTIC, words("Null"): NULL}
    return legend(names) + wide(parts or [paragraph(words("No subspaces were made."), "quiet")])
