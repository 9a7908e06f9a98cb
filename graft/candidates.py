"""Where a lost anchor may be now: statements ranked by how much of their syntax they share with it.

What counts is what a statement calls, what it assigns, the names it uses (one that is rare in the function counts for
more), its kind and the order of its tokens. Where the source is known in which the anchor stood, so do its place among
the statements that did not change, its neighbours, and that a statement which stood there before is not its successor.
``bench/candidates.py`` measures all of it on statements that the upstreams really changed.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import libcst as cst

from graft.edits.base import Edit, nothing_known
from graft.edits.choice import Either
from graft.errors import GraftError
from graft.pattern import code
from graft.shapes import Placed, Shape, flatten, nearest, shape_of_pattern
from graft.source import Definition, Source, expressions

_LEAST = 0.25
"""Below this score a statement has no more in common with the anchor than any two lines of Python have."""


class Weights(NamedTuple):
    """How much each resemblance counts, in proportion; chosen on LLaMA-Factory's 2025, measured on what came later."""

    order: float = 2.0
    names: float = 3.0
    calls: float = 0.5
    targets: float = 1.5
    kind: float = 1.0
    place: float = 2.0
    neighbours: float = 1.0
    parent: float = 0.5


WEIGHTS = Weights()
STOOD_BEFORE = 0.5
"""What is left of the score of a statement that stood beside the anchor before, and so is not what became of it."""


@dataclass(frozen=True)
class Candidate:
    """A statement that resembles the anchor; ``score`` is 0 to 1. ``path`` and ``definition`` where it is elsewhere."""

    line: int
    score: float
    code: str
    path: str = ""
    definition: str = ""

    def __str__(self) -> str:
        there = f"{self.path} ({self.definition}) " if self.path else ""
        return f"{there}line {self.line} ({self.score:.0%}): {self.code}"


@dataclass(frozen=True)
class Old:
    """The definitions in which the anchor was found once, in the file as it was then."""

    source: Source
    scopes: Sequence[Definition]


def rank(
    edit: Edit,
    source: Source,
    scopes: Sequence[Definition],
    *,
    most: int = 3,
    old: Old | None = None,
    weights: Weights = WEIGHTS,
) -> tuple[Candidate, ...]:
    """The statements of the same definitions that resemble an edit's anchor, best first.

    Args:
        old: where the anchor once was; the more of it is known, the better the ranking.
    """
    new = [placed for scope in scopes for placed in flatten(scope)]
    scores = [0.0] * len(new)
    for option in [one for _, one in edit.options] if isinstance(edit, Either) else [edit]:
        scores = [max(pair) for pair in zip(scores, _scores(option, new, old, weights), strict=True)]
    found = [(score, index) for index, score in enumerate(scores) if score >= _LEAST]
    best = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:most]
    return tuple(
        Candidate(source.line_of(new[index].node), round(score, 4), first_line(new[index].node))
        for score, index in best
    )


def _scores(edit: Edit, new: Sequence[Placed], old: Old | None, weights: Weights) -> list[float]:
    syntax = getattr(edit, "syntax", None)
    if not hasattr(edit, "pattern") or not isinstance(syntax, cst.CSTNode):
        return [0.0] * len(new)  # it anchors at the definition itself, which has no statement to name instead
    before = [placed for scope in old.scopes for placed in flatten(scope)] if old is not None else []
    at = _anchor_in(edit, old, before) if old is not None else None
    inner = isinstance(syntax, cst.BaseExpression)
    wanted = shape_of_pattern(syntax)
    rarity = _rarity([placed.shape for placed in (*new, *before)], len(new) + len(before))
    place = _Place(before, at, new) if at is not None else None
    result = []
    for index, placed in enumerate(new):
        score, total = 0.0, 0.0
        own = _alike(wanted, nearest(syntax, placed) if inner else placed.shape, rarity, weights)
        if at is not None:
            own = max(own, _alike(before[at].shape, placed.shape, rarity, weights))
        share = sum(weights[:5])
        score, total = own * share, share
        if place is not None and at is not None:
            score += weights.place * place.nearness(index) + weights.neighbours * place.neighbours(index)
            score += weights.parent * (placed.parent == before[at].parent)
            total += sum(weights[5:])
        value = score / total
        if place is not None and place.stood_before(index):
            value *= STOOD_BEFORE
        result.append(value)
    return result


def _rarity(shapes: Sequence[Shape], total: int) -> dict[str, float]:
    """How much a name tells: one that every statement of the function uses tells little."""
    seen = Counter(name for shape in shapes for name in shape.names)
    return {name: math.log((total + 1) / count) + 0.1 for name, count in seen.items()}


def _alike(wanted: Shape, found: Shape, rarity: dict[str, float], weights: Weights) -> float:
    """How much two shapes share, 0 to 1; what a pattern leaves open is not counted against the statement."""
    matcher = difflib.SequenceMatcher(None, wanted.tokens, found.tokens, autojunk=False)
    if wanted.open:
        order = sum(block.size for block in matcher.get_matching_blocks()) / max(len(wanted.tokens), 1)
        order = order if len(found.tokens) >= len(wanted.tokens) else matcher.ratio()
        order = (order + matcher.ratio()) / 2
    else:
        order = matcher.ratio()
    most = max(rarity.values(), default=1.0)
    shared = sum(rarity.get(name, most) * count for name, count in (wanted.names & found.names).items())
    left = sum(rarity.get(name, most) * count for name, count in wanted.names.items())
    right = sum(rarity.get(name, most) * count for name, count in found.names.items())
    names = 2 * shared / (left + right) if left + right else 1.0
    if wanted.open and left:
        names = (names + shared / left) / 2
    parts = (
        (weights.order, order),
        (weights.names, names),
        (weights.calls, _overlap(wanted.calls, found.calls)),
        (weights.targets, _overlap(wanted.targets, found.targets)),
        (weights.kind, float(wanted.kind == found.kind)),
    )
    return sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)


def _overlap(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.5


def _anchor_in(edit: Edit, old: Old, before: Sequence[Placed]) -> int | None:
    """The statement of the old source at which an edit anchored, None where that is not known or not one."""
    try:
        sites = [site.node for scope in old.scopes for site in edit.sites(old.source, scope, nothing_known)]
    except GraftError:
        return None
    if not sites:
        return None
    for index, placed in enumerate(before):
        if placed.node is sites[0]:
            return index
    inside = [i for i, placed in enumerate(before) if any(node is sites[0] for node in _expressions(placed.node))]
    return inside[-1] if inside else None


def _expressions(node: cst.CSTNode) -> Iterator[cst.BaseExpression]:
    return expressions(node)  # type: ignore[arg-type]


class _Place:
    """Where the anchor would stand, going by the statements around it that are still there."""

    def __init__(self, before: Sequence[Placed], at: int, new: Sequence[Placed]) -> None:
        self._before = [placed.shape.tokens for placed in before]
        self._new = [placed.shape.tokens for placed in new]
        self._at = at
        matcher = difflib.SequenceMatcher(None, self._before, self._new, autojunk=False)
        pairs = {
            block.a + step: block.b + step for block in matcher.get_matching_blocks() for step in range(block.size)
        }
        self._stood = set(pairs.values()) - {pairs.get(at, -1)}
        above = max((old for old in pairs if old < at), default=None)
        below = min((old for old in pairs if old > at), default=None)
        self._low = -1 if above is None else pairs[above]
        self._high = len(new) if below is None else pairs[below]
        self._expected = self._low + (at - (above if above is not None else -1))

    def stood_before(self, index: int) -> bool:
        return index in self._stood

    def nearness(self, index: int) -> float:
        """1 for the very place, less the further away, less again outside the gap between what did not change."""
        distance = abs(index - self._expected)
        inside = self._low < index < self._high
        return (1.0 if inside else 0.5) / (1.0 + 0.25 * distance)

    def neighbours(self, index: int) -> float:
        """How much the statements above and below are those that were there."""
        return (self._beside(index, -1) + self._beside(index, 1)) / 2

    def _beside(self, index: int, step: int) -> float:
        old, new = self._at + step, index + step
        ends = (not 0 <= old < len(self._before), not 0 <= new < len(self._new))
        if any(ends):
            return float(all(ends))
        return difflib.SequenceMatcher(None, self._before[old], self._new[new], autojunk=False).ratio()


def first_line(statement: cst.CSTNode) -> str:
    """A statement without the comments above it; of a compound one, its head."""
    if isinstance(statement, cst.BaseCompoundStatement | cst.SimpleStatementLine):
        statement = statement.with_changes(leading_lines=())
    text = code(statement)
    return text if isinstance(statement, cst.SimpleStatementLine) else text.split("\n")[0]
