"""``after``, ``before`` and ``replace``: edits at a statement, or at an expression inside one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import libcst as cst

from graft.edits.base import (
    Edit,
    Known,
    Site,
    Splice,
    below_magic,
    caller,
    dead_after,
    is_same_run,
    line_end,
    line_start,
)
from graft.errors import BadInput
from graft.pattern import Bindings, as_expression, fill, match, parse, parse_statements, plain, single, variables
from graft.source import Definition, Source, blocks, expressions

_Pattern = cst.BaseStatement | cst.BaseExpression


def is_statement(pattern: _Pattern, node: cst.CSTNode) -> Bindings | None:
    """The bindings under which a whole statement is the pattern; an expression stands for a line of its own."""
    if isinstance(pattern, cst.BaseExpression):
        value = as_expression(node) if isinstance(node, cst.BaseStatement) else None
        return match(pattern, value) if value is not None else None
    wanted, found = single(pattern), single(node)
    if wanted is not None:
        return match(wanted, found) if found is not None else None
    return match(pattern, node)


def is_docstring(block: Sequence[cst.CSTNode], index: int) -> bool:
    small = single(block[index]) if index == 0 else None
    return isinstance(small, cst.Expr) and isinstance(small.value, cst.BaseString)


@dataclass(frozen=True, kw_only=True)
class AtStatement(Edit):
    """Shared by the edits that name a statement and carry code of their own."""

    pattern: str
    add: str
    syntax: _Pattern = field(init=False, repr=False, compare=False)
    statements: tuple[cst.BaseStatement, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        unbound = variables(self.add) - variables(self.pattern)
        if unbound:
            raise BadInput(
                f"${min(unbound)} is written but the pattern {self.pattern!r} does not bind it",
                where=self.where,
                remedy="use it in the pattern, or write the name itself",
            )
        object.__setattr__(self, "syntax", parse(self.pattern, where=self.where))
        object.__setattr__(self, "statements", tuple(parse_statements(self.add, where=self.where)))
        if not self.statements:
            raise BadInput("it adds nothing", where=self.where, remedy="write one or two lines of Python")
        if any("\n" in string.value for statement in self.statements for string in _strings(statement)):
            raise BadInput(
                "it holds a string of several lines, which indentation would change",
                where=self.where,
                remedy="put the text into the overlay",
            )

    @property
    def anchor(self) -> str:
        return self.pattern

    @property
    def added(self) -> str:
        return textwrap.dedent(self.add).strip()

    def adds_statement(self, statement: cst.CSTNode) -> bool:
        return any(is_statement(added, statement) is not None for added in self.statements)

    def filled(self, bindings: Bindings) -> tuple[str, list[cst.BaseStatement]]:
        text = fill(textwrap.dedent(self.add).strip("\n"), bindings)
        return text, list(parse_statements(text, where=self.where))

    def unreachable(self, source: Source, scopes: Sequence[Definition]) -> str:
        return next(filter(None, (dead_after(scope, self.adds_statement) for scope in scopes)), "")


@dataclass(frozen=True, kw_only=True)
class Beside(AtStatement):
    """New lines directly above or below a statement, at its indentation."""

    below: bool

    @property
    def verb(self) -> str:
        return "after" if self.below else "before"

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        for block in blocks(scope.body):
            for index, statement in enumerate(block):
                bindings = None if is_docstring(block, index) else is_statement(self.syntax, statement)
                if bindings is None:
                    continue
                text, wanted = self.filled(bindings)
                if self._present(block, index, wanted, known):
                    yield Site(statement, None)
                else:
                    yield Site(statement, self._splice(source, statement, text))

    def _present(
        self, block: Sequence[cst.CSTNode], index: int, wanted: Sequence[cst.BaseStatement], known: Known
    ) -> bool:
        """Whether the lines stand beside the anchor, with nothing between but what other edits add there."""
        size = len(wanted)
        if self.below:
            for start in range(index + 1, len(block)):
                if is_same_run(block[start : start + size], wanted):
                    return True
                if not known(block[start]):
                    break
        else:
            for stop in range(index, 0, -1):
                if is_same_run(block[max(stop - size, 0) : stop], wanted):
                    return True
                if not known(block[stop - 1]):
                    break
        return False

    def _splice(self, source: Source, statement: cst.CSTNode, text: str) -> Splice:
        content, newline = source.content, source.newline
        start, end = source.span(statement)
        first = line_start(content, start)
        indent = content[first:start]
        lines = newline.join(indent + line.encode() if line else b"" for line in plain(text).split("\n"))
        if not self.below:
            offset = _above_comments(content, first, indent)
            return Splice(offset, offset, lines + newline, (start, end))
        offset = line_end(content, _code_end(content, start, end))
        if not content[:offset].endswith(b"\n"):
            return Splice(offset, offset, newline + lines, (start, end))
        return Splice(offset, offset, lines + newline, (start, end))


def _code_end(content: bytes, start: int, end: int) -> int:
    """The end of a statement's code without blank lines that libcst counts to a block's end."""
    return start + len(content[start:end].rstrip())


def _above_comments(content: bytes, offset: int, indent: bytes) -> int:
    """The start of the comment lines that stand directly above a statement, at its indentation."""
    first = below_magic(content)
    while offset > first:
        previous = line_start(content, offset - 1)
        if not content[previous:offset].startswith(indent + b"#"):
            return offset
        offset = previous
    return offset


@dataclass(frozen=True, kw_only=True)
class Replace(AtStatement):
    """A statement or an expression becomes another; what the pattern bound may be used."""

    @property
    def verb(self) -> str:
        return "replace"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.syntax, cst.BaseExpression) and (
            len(self.statements) != 1 or as_expression(self.statements[0]) is None
        ):
            raise BadInput(
                f"{self.pattern!r} is an expression, its replacement is not",
                where=self.where,
                remedy="write one expression",
            )

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        if isinstance(self.syntax, cst.BaseExpression):
            yield from self._expression_sites(source, scope, self.syntax)
        else:
            yield from self._statement_sites(source, scope, self.syntax)

    def _statement_sites(self, source: Source, scope: Definition, syntax: cst.BaseStatement) -> Iterator[Site]:
        for block in blocks(scope.body):
            index = 0
            while index < len(block):
                run = block[index : index + len(self.statements)]
                if all(map(_equals, self.statements, run)) and len(run) == len(self.statements):
                    yield Site(block[index], None)
                    index += len(run)
                    continue
                bindings = is_statement(syntax, block[index])
                if bindings is not None:
                    text, _ = self.filled(bindings)
                    yield Site(block[index], self._over(source, block[index], text))
                index += 1

    def _expression_sites(self, source: Source, scope: Definition, syntax: cst.BaseExpression) -> Iterator[Site]:
        replacement = as_expression(self.statements[0])
        assert replacement is not None
        found = list(expressions(scope))
        done = [node for node in found if match(replacement, node) is not None]
        inside = {id(child) for node in done for child in _descendants(node)}
        for node in found:
            bindings = match(syntax, node)
            if id(node) in inside:
                if any(node is other for other in done):
                    yield Site(node, None)
            elif bindings is not None:
                yield Site(node, self._over(source, node, fill(self.added, bindings)))

    @staticmethod
    def _over(source: Source, node: cst.CSTNode, text: str) -> Splice:
        start, end = source.span(node)
        end = _code_end(source.content, start, end)
        first = line_start(source.content, start)
        lead = source.content[first:start]
        indent = lead[: len(lead) - len(lead.lstrip())]
        lines = (source.newline + indent).join(line.encode() for line in plain(text).split("\n"))
        return Splice(start, end, lines, (start, end), changes_anchor=True)


def _strings(node: cst.CSTNode) -> Iterator[cst.SimpleString]:
    return (part for part in _descendants(node) if isinstance(part, cst.SimpleString))


def _equals(pattern: _Pattern, node: cst.CSTNode) -> bool:
    return is_statement(pattern, node) is not None


def _descendants(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _descendants(child)


def after(pattern: str, *, add: str, why: str, times: int = 1) -> Beside:
    """New lines directly below the statement ``pattern``."""
    return Beside(pattern=pattern, add=add, why=why, times=times, below=True, where=caller())


def before(pattern: str, *, add: str, why: str, times: int = 1) -> Beside:
    """New lines directly above the statement ``pattern``, and above the comment that belongs to it."""
    return Beside(pattern=pattern, add=add, why=why, times=times, below=False, where=caller())


def replace(pattern: str, *, with_: str, why: str, times: int = 1) -> Replace:
    """The statement or expression ``pattern`` becomes ``with_``."""
    return Replace(pattern=pattern, add=with_, why=why, times=times, where=caller())
