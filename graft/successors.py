"""What became of a definition: the file it stands in, and where no file has it any more, what resembles it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import libcst as cst

from graft.candidates import Candidate, Old, first_line, rank
from graft.edits.base import Edit
from graft.errors import GraftError
from graft.history import GitTree
from graft.pattern import code
from graft.source import Definition, Source, statements

_NAME = re.compile(r"[^\W\d]\w*")
_FILES = 6
"""How many files are parsed in search of a definition; those that share most names with it."""


def homes(tree: GitTree, path: str, definition: str) -> list[str]:
    """The files that have a definition: ``path`` alone where it does, else every one that does."""
    for possible in ([path], tree.homes(definition.split("."))):
        blobs = {one: blob for one in possible if (blob := tree.blob(one)) is not None}
        found = [one for one, blob in blobs.items() if tree.history.defines(one, blob, definition)]
        if found:
            return found
    return []


def footprint(tree: GitTree, path: str, definition: str | None) -> tuple[object, ...]:
    """All of a tree that an edit's end depends on: its file, and where that has not the definition, those that may."""
    blob = tree.blob(path)
    if definition is None or (blob is not None and tree.history.defines(path, blob, definition)):
        return (blob,)
    return (blob, *((other, tree.blob(other)) for other in tree.defining(definition.split(".")[-1])))


def source_of(tree: GitTree, path: str, definition: str | None) -> Old | None:
    """A definition with the file it stands in; None where no file has it, several do, or it is no Python."""
    if definition is None:
        source, scopes = _scopes(tree, path, None)
        return Old(source, scopes) if source is not None else None
    found = homes(tree, path, definition)
    if len(found) != 1:
        return None
    source, scopes = _scopes(tree, found[0], definition)
    return Old(source, scopes) if source is not None and scopes else None


def _scopes(tree: GitTree, path: str, definition: str | None) -> tuple[Source | None, list[Definition]]:
    content = tree.read(path)
    if content is None:
        return None, []
    try:
        source = tree.history.parse(path, content)
    except GraftError:  # what cannot be read is reported where an edit needs it
        return None, []
    return source, source.definitions(definition)


def resembling(
    edit: Edit, path: str, definition: str | None, tree: GitTree, old: Old | None, *, most: int = 3
) -> tuple[Candidate, ...]:
    """Where a lost anchor may be in ``tree``: in its definition, else in those that resemble it.

    Args:
        old: the definition as it was when the anchor was found.
    """
    there = source_of(tree, path, definition)
    if there is not None:
        return rank(edit, there.source, there.scopes, most=most, old=old)
    if definition is None or old is None:
        return ()
    found: list[Candidate] = []
    for score, source, name, scope in _like(tree, path, definition, old):
        inner = rank(edit, source, [scope], most=most, old=old)
        whole = (Candidate(source.line_of(scope), 1.0, first_line(scope)),)
        for one in inner or whole:
            found.append(Candidate(one.line, round(one.score * score, 4), one.code, source.path, name))
    return tuple(sorted(found, key=lambda one: (-one.score, one.path, one.line))[:most])


def _like(tree: GitTree, path: str, definition: str, old: Old) -> list[tuple[float, Source, str, Definition]]:
    """The definitions of the same kind that share most names with one that is gone, best first."""
    wanted = Counter(_NAME.findall(" ".join(code(scope) for scope in old.scopes)))
    texts = {
        one: Counter(_NAME.findall(tree.history.blob(blob).decode("utf-8", "replace"))) for one, blob in tree.modules()
    }
    seen = Counter(name for names in texts.values() for name in names)
    rarity = {name: math.log((len(texts) + 1) / (1 + seen[name])) + 0.1 for name in wanted}
    shares = {one: sum(rarity[name] for name in wanted if name in names) for one, names in texts.items()}
    nearest = sorted(shares, key=lambda one: (one != path, -shares[one], one))[:_FILES]
    kind = type(old.scopes[0])
    found = []
    for one in nearest:
        source, scopes = _scopes(tree, one, None)
        for name, scope in _all(scopes, ""):
            if source is not None and type(scope) is kind:
                score = _shared(wanted, Counter(_NAME.findall(code(scope))), rarity)
                own, other = definition.split(".")[-1], name.split(".")[-1]
                found.append((0.9 * score + 0.1 * (own == other), source, name, scope))
    return sorted(found, key=lambda item: (-item[0], item[1].path, item[2]))[:2]


def _shared(left: Counter[str], right: Counter[str], rarity: dict[str, float]) -> float:
    both = sum(rarity.get(name, 0.1) * count for name, count in (left & right).items())
    each = sum(rarity.get(name, 1.0) * count for names in (left, right) for name, count in names.items())
    return 2 * both / each if each else 0.0


def _all(scopes: Sequence[Definition], prefix: str) -> Iterator[tuple[str, Definition]]:
    """Every definition with its qualified name, outer ones first."""
    for scope in scopes:
        for statement in statements(scope.body):
            if isinstance(statement, cst.ClassDef | cst.FunctionDef):
                name = prefix + statement.name.value
                yield name, statement
                yield from _all([statement], name + ".")
