"""Edits that put one more element between brackets: a keyword, a parameter, a dictionary entry, a base class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import libcst as cst

from graft.edits.base import Edit, Known, Site, Splice, caller, line_start
from graft.errors import BadInput, GraftError
from graft.pattern import code, fill, match, parse, plain, same, variables
from graft.source import Definition, Source, Span, expressions


def append(source: Source, last: Span | None, closing: int, text: str, anchor: Span) -> Splice:
    """Puts ``text`` behind the last element, laid out as that one is: on a line of its own, or on the same line.

    Args:
        last: where the last element stands; None where there is none.
        closing: the offset of the closing bracket.
        anchor: what the edit relies on.
    """
    content = source.content
    if last is None:
        return Splice(closing, closing, text.encode(), anchor)
    start, end = last
    first = line_start(content, start)
    indent = content[first:start]
    gap = content[end:closing]
    comma = b"" if gap.split(b"#")[0].strip().startswith(b",") else b","
    if indent.strip() or b"\n" not in gap:  # the last element shares its line
        if comma:
            return Splice(end, end, b", " + text.encode(), anchor)
        behind = end + gap.index(b",") + 1
        return Splice(behind, behind, b" " + text.encode() + b",", anchor)
    line_break = end + gap.index(b"\n") + 1
    added = indent + text.encode() + b"," + source.newline
    if comma:  # the line above must get its comma, in front of a comment that may follow
        return Splice(end, line_break, comma + content[end:line_break] + added, anchor)
    return Splice(line_break, line_break, added, anchor)


def prepend(source: Source, start: int, text: str, anchor: Span) -> Splice:
    """Puts ``text`` in front of the element at ``start``, laid out as that one is."""
    first = line_start(source.content, start)
    indent = source.content[first:start]
    if indent.strip():
        return Splice(start, start, text.encode() + b", ", anchor)
    return Splice(first, first, indent + text.encode() + b"," + source.newline, anchor)


@dataclass(frozen=True, kw_only=True)
class InBrackets(Edit):
    """Shared by the edits whose anchor is an expression with brackets."""

    pattern: str
    add: str
    syntax: cst.BaseExpression = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        syntax = parse(self.pattern, where=self.where)
        if not isinstance(syntax, self.bracketed):
            raise BadInput(
                f"the pattern {self.pattern!r} is no {self.bracketed.__name__.lower()}",
                where=self.where,
                remedy=f"{self.verb} works on code like {self.example}",
            )
        object.__setattr__(self, "syntax", syntax)
        if variables(self.add) - variables(self.pattern):
            raise BadInput(
                f"{self.add!r} uses a $name that the pattern does not bind",
                where=self.where,
                remedy="use it in the pattern, or write the name itself",
            )
        _one(self.wrapped(self.add), self)

    bracketed: ClassVar[type[cst.BaseExpression]]
    example: ClassVar[str]

    @property
    def anchor(self) -> str:
        return self.pattern

    @property
    def added(self) -> str:
        return self.add.strip()

    def wrapped(self, text: str) -> str:
        """The element as an expression that can be parsed alone."""
        raise NotImplementedError

    def elements(self, node: cst.BaseExpression) -> Sequence[cst.CSTNode]:
        raise NotImplementedError

    def key(self, element: cst.CSTNode) -> cst.CSTNode | None:
        """What makes an element the same entry: a keyword's name, a dictionary's key, nothing for ``**``."""
        raise NotImplementedError

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        for node in expressions(scope):
            if not isinstance(node, self.bracketed):
                continue
            wide = _without(node, self._own_entry(node))
            bindings = match(self.syntax, node) or match(self.syntax, wide)
            if bindings is None:
                continue
            text = fill(self.add, bindings)
            wanted = _one(self.wrapped(text), self)
            present = [element for element in self.elements(node) if self._is_entry(element, wanted)]
            if present and all(same(self._value(wanted), self._value(element)) for element in present):
                yield Site(node, None)
            elif present:
                raise GraftError(
                    f"the entry is there with another value: {code(present[0])}",
                    where=f"{source.path}:{source.line_of(node)}",
                    remedy="change the pack to replace that entry",
                )
            else:
                span = source.span(node)
                last = source.span(self.elements(node)[-1]) if self.elements(node) else None
                key = self.key(wanted)
                made = append(source, last, span[1] - 1, plain(text).strip(), span)
                yield Site(node, replace(made, key=code(key) if key is not None else ""))

    def _is_entry(self, element: cst.CSTNode, wanted: cst.CSTNode) -> bool:
        own, key = self.key(wanted), self.key(element)
        if own is None or key is None:
            return own is None and key is None and same(self._value(wanted), self._value(element))
        return same(own, key)

    @staticmethod
    def _value(element: cst.CSTNode) -> cst.CSTNode:
        value = getattr(element, "value", element)
        return value if isinstance(value, cst.CSTNode) else element

    def _own_entry(self, node: cst.BaseExpression) -> list[cst.CSTNode]:
        """The elements that this edit may have added; left out, the pattern must match as it did before."""
        if variables(self.add):
            key = self.key(_one(self.wrapped(self.add), self))
            return [
                e for e in self.elements(node) if key is not None and (k := self.key(e)) is not None and same(key, k)
            ]
        wanted = _one(self.wrapped(self.add), self)
        return [element for element in self.elements(node) if self._is_entry(element, wanted)]


def _one(text: str, edit: InBrackets) -> cst.CSTNode:
    holder = parse(text, where=edit.where)
    elements = edit.elements(holder) if isinstance(holder, edit.bracketed) else ()
    if len(elements) != 1:
        raise BadInput(f"{edit.added!r} is not one element", where=edit.where, remedy=f"add one, as in {edit.example}")
    return elements[0]


def _without(node: cst.BaseExpression, left_out: Sequence[cst.CSTNode]) -> cst.BaseExpression:
    if not left_out:
        return node
    name = "args" if isinstance(node, cst.Call) else "elements"
    kept = [element for element in getattr(node, name) if not any(element is other for other in left_out)]
    return node.with_changes(**{name: kept})


@dataclass(frozen=True, kw_only=True)
class AddKeyword(InBrackets):
    """A call gets one more keyword argument."""

    bracketed = cst.Call
    example = "add_keyword('Trainer(...)', add='hook=hook')"

    @property
    def verb(self) -> str:
        return "add_keyword"

    def wrapped(self, text: str) -> str:
        return f"f({text})"

    def elements(self, node: cst.BaseExpression) -> Sequence[cst.Arg]:
        assert isinstance(node, cst.Call)
        return node.args

    def key(self, element: cst.CSTNode) -> cst.CSTNode | None:
        return element.keyword if isinstance(element, cst.Arg) else None


@dataclass(frozen=True, kw_only=True)
class IntoDict(InBrackets):
    """A dictionary literal gets one more entry, or one more ``**mapping``."""

    bracketed = cst.Dict
    example = """into_dict('{"role": $r, ...}', add='"kind": kind')"""

    @property
    def verb(self) -> str:
        return "into_dict"

    def wrapped(self, text: str) -> str:
        return "{" + text + "}"

    def elements(self, node: cst.BaseExpression) -> Sequence[cst.BaseDictElement]:
        assert isinstance(node, cst.Dict)
        return node.elements

    def key(self, element: cst.CSTNode) -> cst.CSTNode | None:
        return element.key if isinstance(element, cst.DictElement) else None


def add_keyword(pattern: str, *, add: str, why: str, times: int = 1) -> AddKeyword:
    """The call ``pattern`` gets the keyword argument ``add`` (``name=value``)."""
    return AddKeyword(pattern=pattern, add=add, why=why, times=times, where=caller())


def into_dict(pattern: str, *, add: str, why: str, times: int = 1) -> IntoDict:
    """The dictionary literal ``pattern`` gets the entry ``add`` (``"key": value`` or ``**mapping``)."""
    return IntoDict(pattern=pattern, add=add, why=why, times=times, where=caller())
