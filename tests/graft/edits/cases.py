"""One way to try an edit: on a text, at a definition, twice."""

from __future__ import annotations

from graft.edits.base import Edit, Match
from graft.edits.members import AddImport
from graft.source import Source


def apply_edit(edit: Edit, text: str, definition: str | None) -> str:
    """The text with the edit in it; the edit must be found ready."""
    source = Source("a.py", text.encode())
    scopes = source.definitions(None if isinstance(edit, AddImport) else definition)
    finding = edit.find(source, scopes)
    assert finding.match is Match.READY, finding
    content = source.content
    for splice in sorted(finding.splices, key=lambda one: one.start, reverse=True):
        content = content[: splice.start] + splice.text + content[splice.end :]
    return content.decode()


def found(edit: Edit, text: str, definition: str | None) -> Match:
    source = Source("a.py", text.encode())
    return edit.find(source, source.definitions(definition)).match


def check(edit: Edit, before: str, after: str, definition: str | None) -> None:
    """The edit makes ``before`` to ``after``, and does nothing to ``after``."""
    assert apply_edit(edit, before, definition) == after
    assert found(edit, after, definition) is Match.PRESENT
