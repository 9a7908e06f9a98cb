"""What every edit is: a reason, an anchor that must be found an exact number of times, and what it splices in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import libcst as cst

from graft.errors import BadInput
from graft.pattern import same
from graft.source import Definition, Source, Span, block_statements, suites


class Match(str, Enum):
    """How an edit stands in one file."""

    READY = "ready"  # its anchor is there, what it adds is not
    PRESENT = "present"  # what it adds is there
    LOST = "lost"  # its anchor is not there
    AMBIGUOUS = "ambiguous"  # its anchor is there too often, or only in part done


@dataclass(frozen=True)
class Splice:
    """Bytes ``start`` to ``end`` become ``text``; ``anchor`` is the code that this relies on.

    ``key`` names what may stand there once only: a keyword, a dictionary's key, a field, a parameter.
    """

    start: int
    end: int
    text: bytes
    anchor: Span
    changes_anchor: bool = False
    key: str = ""


@dataclass(frozen=True)
class Finding:
    match: Match
    splices: tuple[Splice, ...] = ()
    lines: tuple[int, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Site:
    """One place where an anchor matched: done already, or the splice that does it."""

    node: cst.CSTNode
    splice: Splice | None


class Known(Protocol):
    """Says whether a statement is one that some edit of this run adds."""

    def __call__(self, statement: cst.CSTNode, /) -> bool: ...


def nothing_known(_: cst.CSTNode) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit inside one definition.

    Args:
        why: the reason, mandatory; it is printed wherever the edit is.
        times: how often the anchor must match, exactly.
        where: file and line in the pack, filled in by the functions that make edits.
    """

    why: str
    times: int = 1
    where: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.why, str) or not self.why.strip():
            raise BadInput(
                f"{self.verb} has no reason", where=self.where, remedy='say why="..." for whoever rebases it next year'
            )
        if not isinstance(self.times, int) or self.times < 1:
            raise BadInput(
                f"times={self.times!r} is not a positive number", where=self.where, remedy="leave it out for 1"
            )

    @property
    def verb(self) -> str:
        return type(self).__name__

    @property
    def anchor(self) -> str:
        """What is looked for, in words for a report."""
        raise NotImplementedError

    @property
    def added(self) -> str:
        """What is written, in words for a report."""
        raise NotImplementedError

    def adds_statement(self, statement: cst.CSTNode) -> bool:
        """Whether a statement is what this edit adds, so that neighbours' edits may look past it."""
        return False

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterable[Site]:
        raise NotImplementedError

    def find(self, source: Source, scopes: Sequence[Definition], known: Known = nothing_known) -> Finding:
        """Where this edit stands in a file, over all definitions of the name it belongs to."""
        sites = [site for scope in scopes for site in self.sites(source, scope, known)]
        splices = tuple(site.splice for site in sites if site.splice is not None)
        if not sites:
            return Finding(Match.LOST, detail=f"no match for {self.anchor!r}")
        if len(sites) == self.times and not splices:  # lines would cost a pass over the file, and nobody asks for them
            return Finding(Match.PRESENT)
        lines = tuple(source.line_of(site.node) for site in sites)
        if len(sites) != self.times:
            detail = f"{len(sites)} matches for {self.anchor!r}, {self.times} wanted"
            return Finding(Match.AMBIGUOUS, lines=lines, detail=detail)
        if len(splices) != len(sites):
            detail = f"{len(sites) - len(splices)} of {len(sites)} matches have it already, the others have not"
            return Finding(Match.AMBIGUOUS, lines=lines, detail=detail)
        return Finding(Match.READY, splices=splices, lines=lines)

    def unreachable(self, source: Source, scopes: Sequence[Definition]) -> str:
        """Why what was added can never run, or nothing."""
        return ""


def caller() -> str:
    """File and line of the pack in which an edit is written."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("graft."):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-3:])}:{frame.f_lineno}"


def dead_after(scope: Definition, is_added: Known) -> str:
    """Says so where an added statement can never run."""
    return "it stands behind a statement that always leaves the block" if _dead(scope.body, is_added, False) else ""


def _dead(body: object, is_added: Known, left: bool) -> bool:
    for statement in block_statements(body):
        if left and is_added(statement):
            return True
        if not isinstance(statement, cst.ClassDef | cst.FunctionDef) and any(
            _dead(suite, is_added, left) for suite in suites(statement)
        ):
            return True
        left = left or _leaves(statement)
    return False


def _leaves(statement: cst.CSTNode) -> bool:
    """Whether control never goes on behind a statement; where that cannot be told, it does."""
    if isinstance(statement, cst.SimpleStatementLine | cst.SimpleStatementSuite):
        return any(isinstance(small, cst.Return | cst.Raise | cst.Continue | cst.Break) for small in statement.body)
    if isinstance(statement, cst.IndentedBlock):
        return any(map(_leaves, statement.body))
    if isinstance(statement, cst.If):
        return statement.orelse is not None and _leaves(statement.body) and _leaves(statement.orelse)
    if isinstance(statement, cst.Else):
        return _leaves(statement.body)
    return False


def is_same_run(found: Sequence[cst.CSTNode], wanted: Sequence[cst.CSTNode]) -> bool:
    return len(found) == len(wanted) and all(same(left, right) for left, right in zip(wanted, found, strict=True))


def line_start(content: bytes, offset: int) -> int:
    return content.rfind(b"\n", 0, offset) + 1


def line_end(content: bytes, offset: int) -> int:
    """The offset behind the line end, or the end of the file."""
    found = content.find(b"\n", offset)
    return len(content) if found < 0 else found + 1


def below_magic(content: bytes) -> int:
    """The offset behind the lines that must stay first in a file: ``#!`` and the encoding."""
    offset = 0
    for _ in range(2):
        line = content[offset : line_end(content, offset)]
        if not line.startswith(b"#!" if offset == 0 else b"#") and not (line.startswith(b"#") and b"coding" in line):
            break
        if offset and b"coding" not in line:
            break
        offset += len(line)
    return offset
