"""Where a lost anchor may be now: statements ranked by how much of their syntax they share with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from graft.edits.base import Edit
from graft.pattern import code
from graft.source import Definition, Source, statements

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Candidate:
    """A statement that resembles the anchor; ``score`` is 0 to 1."""

    line: int
    score: float
    code: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.score:.0%}): {self.code}"


def rank(edit: Edit, source: Source, scopes: Sequence[Definition], *, most: int = 3) -> tuple[Candidate, ...]:
    """The statements of the same definitions that resemble an edit's anchor, best first."""
    wanted = _TOKEN.findall(edit.anchor)
    found = []
    for scope in scopes:
        for statement in statements(scope.body):
            text = first_line(statement)
            score = difflib.SequenceMatcher(None, wanted, _TOKEN.findall(text), autojunk=False).ratio()
            if score > 0.3:
                found.append(Candidate(source.line_of(statement), score, text))
    return tuple(sorted(found, key=lambda candidate: (-candidate.score, candidate.line))[:most])


def first_line(statement: cst.CSTNode) -> str:
    """A statement without the comments above it; of a compound one, its head."""
    if isinstance(statement, cst.BaseCompoundStatement | cst.SimpleStatementLine):
        statement = statement.with_changes(leading_lines=())
    text = code(statement)
    return text if isinstance(statement, cst.SimpleStatementLine) else text.split("\n")[0]
