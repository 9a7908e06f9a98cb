"""What a run says of one upstream, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from graft.errors import GraftError, Several
from graft.rewrite import Outcome


@dataclass
class Report:
    """One upstream in one run.

    ``state`` is a word: applied, unapplied, changed, drifted, failed, absent or unreachable. ``wrote`` are the files of
    the checkout that were written (or would be).
    """

    name: str
    path: str
    commit: str
    tree: str
    license: str
    state: str = ""
    source: str = ""
    tree_proven: bool = False
    packs: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrote: list[str] = field(default_factory=list)
    changed_lines: int = 0
    overlay_files: int = 0
    edited_by_user: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    diff: str = ""
    tried: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[GraftError] = field(default_factory=list)

    def add_error(self, error: GraftError) -> None:
        self.errors += error.errors if isinstance(error, Several) else [error]

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.packs.setdefault(outcome.pack, {}).setdefault("edits", []).append(as_dict(outcome))

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is empty is left out, but for what a script always looks for."""
        always = {"name", "state", "tree_proven", "packs", "wrote", "changed_lines", "errors"}
        data = {key: value for key, value in vars(self).items() if value or key in always}
        return {**data, "errors": [error.as_dict() for error in self.errors]}


def as_dict(outcome: Outcome) -> dict[str, Any]:
    data = {
        "edit": outcome.verb,
        "path": outcome.path,
        "definition": outcome.definition,
        "anchor": outcome.anchor,
        "adds": outcome.added,
        "why": outcome.why,
        "declared": outcome.declared,
        "state": outcome.state.value,
        "moved_from": outcome.moved_from,
        "lines": list(outcome.lines),
        "detail": outcome.detail,
        "candidates": [vars(candidate) for candidate in outcome.candidates],
    }
    return {key: value for key, value in data.items() if value or key == "definition"}
