"""``either``: the same edit written for several versions of the upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import libcst as cst

from graft.edits.base import Edit, Finding, Known, Match, caller, nothing_known
from graft.errors import BadInput
from graft.source import Definition, Source


@dataclass(frozen=True, kw_only=True)
class Either(Edit):
    """Alternatives by version; the first that finds its anchor is the edit."""

    options: tuple[tuple[str, Edit], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(versions, str) and isinstance(edit, Edit) for versions, edit in self.options):
            raise BadInput(
                "either() wants a text and an edit for each alternative",
                where=self.where,
                remedy='either({"v2 and later": after(...), "up to v1": after(...)}, why="...")',
            )
        if len(self.options) < 2:
            raise BadInput("either() has fewer than two alternatives", where=self.where, remedy="write the edit alone")

    @property
    def verb(self) -> str:
        return "either"

    @property
    def anchor(self) -> str:
        return " | ".join(f"{versions}: {edit.anchor}" for versions, edit in self.options)

    @property
    def added(self) -> str:
        return self.options[0][1].added

    def adds_statement(self, statement: cst.CSTNode) -> bool:
        return any(edit.adds_statement(statement) for _, edit in self.options)

    def find(self, source: Source, scopes: Sequence[Definition], known: Known = nothing_known) -> Finding:
        findings = [(versions, edit.find(source, scopes, known)) for versions, edit in self.options]
        for wanted in (Match.PRESENT, Match.READY, Match.AMBIGUOUS):
            for versions, finding in findings:
                if finding.match is wanted:
                    detail = f"{versions}{': ' + finding.detail if finding.detail else ''}"
                    return Finding(finding.match, finding.splices, finding.lines, detail)
        return Finding(Match.LOST, detail=f"no match for any of {self.anchor}")

    def unreachable(self, source: Source, scopes: Sequence[Definition]) -> str:
        return next(filter(None, (edit.unreachable(source, scopes) for _, edit in self.options)), "")


def either(options: Mapping[str, Edit], *, why: str) -> Either:
    """Alternatives: ``{"v0.9.5 and later": after(...), "up to v0.9.4": after(...)}``, tried in this order."""
    where = caller()
    if not isinstance(options, Mapping):
        raise BadInput(
            "either() wants a mapping", where=where, remedy='either({"v2": after(...), "v1": after(...)}, why="...")'
        )
    return Either(options=tuple(options.items()), why=why, where=where)
