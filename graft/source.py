"""One Python file of an upstream: its bytes, its syntax, and where in the bytes each piece of syntax stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache, cached_property
from typing import TypeAlias

import libcst as cst

from graft.depth import too_deep
from graft.errors import GraftError
from graft.spans import spans_of

Definition: TypeAlias = cst.Module | cst.ClassDef | cst.FunctionDef
Span: TypeAlias = tuple[int, int]

_TRIVIA = re.compile(
    r"whitespace|leading_lines|lines_after|lpar$|rpar$|lbracket|rbracket|lbrace|rbrace|comma$|semicolon|header|footer"
    r"|indent|newline|equal$|colon$|dot$|^start$|^end$|trailing|default_|encoding|has_trailing"
)
_LEAVE_OUT = "leave this file out of the pack"
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")


class Source:
    """A parsed file.

    Args:
        path: relative to the checkout, for messages.
        content: the bytes; UTF-8 without a byte order mark.

    Raises:
        GraftError: not UTF-8, or not Python that libcst reads (named with its line).
    """

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.content = content
        _refuse_other_encodings(path, content)
        if why := too_deep(content):
            raise GraftError(f"nested too deeply to be read: {why}", where=path, remedy=_LEAVE_OUT)
        try:
            self.module = cst.parse_module(content)
        except cst.ParserSyntaxError as error:
            raise GraftError(
                f"not Python that can be read: {error.message.splitlines()[0]}",
                where=f"{path}:{error.raw_line}",
                remedy="if you edited it, mend it or restore it with git checkout",
            ) from error

    @cached_property
    def _spans(self) -> Mapping[cst.CSTNode, Span]:
        return spans_of(self.module, self.path)

    def span(self, node: cst.CSTNode) -> Span:
        """Byte offsets of a node's code, decorators included, without comments above it and the line end after it."""
        start, end = self._spans[node]
        if isinstance(node, cst.ClassDef | cst.FunctionDef) and node.decorators:
            start = self._spans[node.decorators[0]][0]
        return start, end

    def line_of(self, node: cst.CSTNode) -> int:
        """The 1-based line on which a node begins."""
        return self.content.count(b"\n", 0, self.span(node)[0]) + 1

    @property
    def newline(self) -> bytes:
        return self.module.default_newline.encode()

    def definitions(self, qualified_name: str | None) -> list[Definition]:
        """Every definition of that name (``Class.method``, ``outer.inner``); the module itself for None or ''."""
        if not qualified_name:
            return [self.module]
        scopes: list[Definition] = [self.module]
        for part in qualified_name.split("."):
            scopes = [inner for scope in scopes for inner in _named(scope, part)]
        return scopes


@cache
def semantic_fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """A node's fields without white space, comments, brackets and commas."""
    return tuple(field.name for field in fields(kind) if not _TRIVIA.search(field.name))


def _refuse_other_encodings(path: str, content: bytes) -> None:
    remedy = "graft reads UTF-8 only; leave this file out of the pack"
    for text in content.split(b"\n", 2)[:2]:
        declared = _CODING.match(text)
        if declared and declared[1].lower().replace(b"_", b"-") not in (b"utf-8", b"utf8", b"ascii", b"us-ascii"):
            raise GraftError(f"the file declares the encoding {declared[1].decode()}", where=path, remedy=remedy)
    if content.startswith(b"\xef\xbb\xbf"):
        raise GraftError("the file begins with a byte order mark", where=path, remedy=remedy)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise GraftError("the file is not UTF-8", where=f"{path}:{line}", remedy=remedy) from error
    if lone := re.search(rb"\r(?!\n)", content):
        # libcst does not print such a file as it read it, so no offset in it could be trusted.
        line = len(content[: lone.end()].splitlines())
        remedy = "rewrite its line ends, or leave this file out of the pack"
        raise GraftError("a line ends in a lone carriage return", where=f"{path}:{line}", remedy=remedy)


def _named(scope: Definition, name: str) -> Iterator[Definition]:
    """The definitions of that name; of several plain ones in one block only the last counts, as it does in Python."""
    for block in blocks(scope.body):
        own = [node for node in block if isinstance(node, cst.ClassDef | cst.FunctionDef) and node.name.value == name]
        plain = [node for node in own if not node.decorators]
        yield from (node for node in own if node.decorators or node is plain[-1])


def statements(body: object) -> Iterator[cst.CSTNode]:
    """The statements of one scope, those inside ``if``, ``for``, ``try``, ... included, those of definitions not."""
    for block in blocks(body):
        yield from block


def blocks(body: object) -> Iterator[list[cst.CSTNode]]:
    """The blocks of one scope, outermost first."""
    own = block_statements(body)
    yield own
    for statement in own:
        if not isinstance(statement, cst.ClassDef | cst.FunctionDef):
            for suite in suites(statement):
                yield from blocks(suite)


def block_statements(body: object) -> list[cst.CSTNode]:
    """The statements that stand on lines of their own in a block; those of ``if x: y`` on one line do not."""
    if isinstance(body, cst.IndentedBlock):
        return list(body.body)
    if isinstance(body, cst.Module):
        return list(body.body)
    return list(body) if isinstance(body, list | tuple) else []


def suites(statement: cst.CSTNode) -> Iterator[cst.BaseSuite]:
    """The blocks of a compound statement, those of its branches too."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        part = getattr(statement, name, None)
        for child in part if isinstance(part, list | tuple) else [part]:
            if isinstance(child, cst.BaseSuite):
                yield child
            elif isinstance(child, cst.CSTNode):
                yield from suites(child)


def expressions(scope: Definition) -> Iterator[cst.BaseExpression]:
    """Every expression of a definition, decorators, bases and defaults included."""
    pending: list[object] = [scope]
    while pending:
        node = pending.pop()
        if isinstance(node, cst.BaseExpression):
            yield node
        if isinstance(node, cst.CSTNode):
            pending += [getattr(node, name) for name in reversed(semantic_fields(type(node)))]
        elif isinstance(node, list | tuple):
            pending += reversed(node)
