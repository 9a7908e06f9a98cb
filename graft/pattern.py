"""Anchors: Python with ``$x`` for any expression and ``...`` for any further elements, matched on syntax.

White space, comments, parentheses, quotes, trailing commas, annotations of assignments and the order of keywords do
not matter. ``$x`` binds; a second ``$x`` must be the same code; ``$_`` binds nothing. ``...`` stands for any run of
arguments, elements or statements, and alone for any expression or any block; ``$$`` is a dollar sign.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import libcst as cst

from graft.depth import too_deep
from graft.errors import BadInput
from graft.source import semantic_fields

Bindings: TypeAlias = dict[str, cst.CSTNode]

_VARIABLE = re.compile(r"(?<!\$)\$([A-Za-z_]\w*)")
_OPENS = re.compile(r"(?:^|[(\[{,:]|(?<![=<>!])=|\breturn)\s*\Z")
_CLOSES = re.compile(r"\s*(?:\Z|[)\]},:\n]|#)")
_ATOMS = (cst.Name, cst.Attribute, cst.Call, cst.Subscript, cst.SimpleString, cst.FormattedString, cst.List, cst.Dict)
_LOOSE = (cst.Tuple, cst.NamedExpr, cst.Yield, cst.GeneratorExp)
_PREFIX = "__graft_var_"


def parse(text: str, *, where: str = "") -> cst.BaseStatement | cst.BaseExpression:
    """The pattern's syntax: an expression where it is one, else one statement.

    Raises:
        BadInput: it is not Python (after ``$x`` is read as a name), or more than one statement.
    """
    try:
        statements = parse_statements(text, where=where)
    except BadInput:
        starred = re.sub(r"([{,]\s*)\.\.\.(?=\s*[,})])", r"\1**...", text)
        if starred == text:
            raise
        statements = parse_statements(starred, where=where)
    if len(statements) != 1:
        raise BadInput(
            f"the pattern {text.strip()!r} is {len(statements)} statements, not one",
            where=where,
            remedy="anchor at one statement or one expression",
        )
    return as_expression(statements[0]) or statements[0]


def parse_statements(text: str, *, where: str = "") -> Sequence[cst.BaseStatement]:
    """The statements of a piece of code in which ``$x`` may stand."""
    source = _VARIABLE.sub(lambda found: _PREFIX + found[1], textwrap.dedent(text).strip("\n")).replace("$$", "$")
    if why := too_deep(source.encode()):
        raise BadInput(
            f"the pattern is nested too deeply to be read: {why}",
            where=where,
            remedy="anchor at a smaller piece of code",
        )
    try:
        body = cst.parse_module(source + "\n").body
    except cst.ParserSyntaxError as error:
        raise BadInput(
            f"the pattern {text.strip()!r} does not parse: {error.message.splitlines()[0]}",
            where=where,
            remedy="write plain Python with $name for any expression and ... for any further elements",
        ) from error
    return [statement for statement in body if isinstance(statement, cst.BaseStatement)]


def as_expression(statement: cst.BaseStatement) -> cst.BaseExpression | None:
    """The expression of a statement that is nothing else."""
    small = single(statement)
    return small.value if isinstance(small, cst.Expr) else None


def single(statement: cst.CSTNode) -> cst.BaseSmallStatement | None:
    """The one small statement on a line; None for compound statements and for lines that hold several."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        return statement.body[0]
    return None


def variables(text: str) -> set[str]:
    return set(_VARIABLE.findall(text)) - {"_"}


def fill(text: str, bindings: Mapping[str, cst.CSTNode]) -> str:
    """``text`` with each ``$x`` replaced by the code that it was bound to, in parentheses where it would fall apart."""

    def put(found: re.Match[str]) -> str:
        bound = bindings[found[1]]
        written = code(bound).replace("$", "$$")
        alone = _OPENS.search(text[: found.start()]) and _CLOSES.match(text[found.end() :])
        if isinstance(bound, _ATOMS) or (alone and not isinstance(bound, _LOOSE)) or bool(getattr(bound, "lpar", None)):
            return written
        return f"({written})"

    return _VARIABLE.sub(put, text)


def plain(text: str) -> str:
    """A piece of filled code as it is written: ``$$`` is a dollar sign."""
    return text.replace("$$", "$")


def code(node: cst.CSTNode) -> str:
    return cst.Module(body=()).code_for_node(node).strip()


def match(pattern: cst.CSTNode, node: cst.CSTNode) -> Bindings | None:
    """The bindings under which ``pattern`` is ``node``, or None."""
    return next(_match(pattern, node, {}), None)


def same(left: cst.CSTNode, right: cst.CSTNode) -> bool:
    return match(left, right) is not None


def _variable(node: object) -> str | None:
    if isinstance(node, cst.Name) and node.value.startswith(_PREFIX):
        return node.value[len(_PREFIX) :]
    return None


def _is_rest(node: object) -> bool:
    """Whether a pattern's element stands for any run of elements."""
    if isinstance(node, cst.Arg):
        node = node.value if node.keyword is None and node.star != "*" else None
    elif isinstance(node, cst.Element | cst.StarredDictElement | cst.Expr):
        node = node.value
    elif isinstance(node, cst.SubscriptElement) and isinstance(node.slice, cst.Index):
        node = node.slice.value
    elif isinstance(node, cst.SimpleStatementLine):
        inner = single(node)
        return inner is not None and _is_rest(inner)
    return isinstance(node, cst.Ellipsis)


def _match(pattern: Any, node: Any, bound: Bindings) -> Iterator[Bindings]:
    """Every way in which ``pattern`` is ``node``, given what is bound already."""
    name = _variable(pattern)
    if name is not None:
        yield from _bind(name, node, bound)
    elif isinstance(pattern, cst.Ellipsis):
        if isinstance(node, cst.BaseExpression):
            yield bound
    elif isinstance(pattern, cst.BaseString) and isinstance(node, cst.BaseString):
        yield from _match_string(pattern, node, bound)
    elif isinstance(pattern, cst.Assign) and isinstance(node, cst.AnnAssign):
        if len(pattern.targets) == 1 and node.value is not None:
            for first in _match(pattern.targets[0].target, node.target, bound):
                yield from _match(pattern.value, node.value, first)
    elif isinstance(pattern, cst.BaseSuite) and isinstance(node, cst.BaseSuite):
        yield from _match_run(_suite(pattern), _suite(node), bound)
    elif isinstance(pattern, cst.Call) and isinstance(node, cst.Call):
        for first in _match(pattern.func, node.func, bound):
            yield from _match_arguments(pattern.args, node.args, first)
    elif isinstance(pattern, cst.Dict) and isinstance(node, cst.Dict):
        yield from _match_unordered(pattern.elements, node.elements, bound)
    elif isinstance(pattern, cst.CSTNode):
        if type(pattern) is type(node):
            names = semantic_fields(type(pattern))
            if not getattr(pattern, "decorators", True):  # a definition shown without decorators may have any
                names = tuple(name for name in names if name != "decorators")
            yield from _match_fields(pattern, node, names, bound)
    elif isinstance(pattern, Sequence) and not isinstance(pattern, str):
        if isinstance(node, Sequence):
            yield from _match_run(pattern, node, bound)
    elif pattern == node:
        yield bound


def _bind(name: str, node: Any, bound: Bindings) -> Iterator[Bindings]:
    if not isinstance(node, cst.BaseExpression):
        return
    if name == "_":
        yield bound
    elif name not in bound:
        yield {**bound, name: node}
    elif same(bound[name], node):
        yield bound


def _match_fields(pattern: cst.CSTNode, node: cst.CSTNode, names: Sequence[str], bound: Bindings) -> Iterator[Bindings]:
    if not names:
        yield bound
        return
    head, *rest = names
    for first in _match(getattr(pattern, head), getattr(node, head), bound):
        yield from _match_fields(pattern, node, rest, first)


def _match_run(patterns: Sequence[Any], nodes: Sequence[Any], bound: Bindings) -> Iterator[Bindings]:
    """A run of elements in order; a ``...`` in the pattern takes any number of them."""
    if not patterns:
        if not nodes:
            yield bound
        return
    if _is_rest(patterns[0]):
        for taken in range(len(nodes) + 1):
            yield from _match_run(patterns[1:], nodes[taken:], bound)
    elif nodes:
        for first in _match(patterns[0], nodes[0], bound):
            yield from _match_run(patterns[1:], nodes[1:], first)


def _match_unordered(patterns: Sequence[Any], nodes: Sequence[Any], bound: Bindings) -> Iterator[Bindings]:
    """Elements whose order carries no meaning; without a ``...`` none may be left over."""
    open_ended = any(_is_rest(pattern) for pattern in patterns)
    wanted = [pattern for pattern in patterns if not _is_rest(pattern)]
    if not wanted:
        if open_ended or not nodes:
            yield bound
        return
    for index, node in enumerate(nodes):
        others = [*nodes[:index], *nodes[index + 1 :]]
        rest = [*wanted[1:], *(pattern for pattern in patterns if _is_rest(pattern))]
        for first in _match(wanted[0], node, bound):
            yield from _match_unordered(rest, others, first)


def _match_arguments(patterns: Sequence[cst.Arg], nodes: Sequence[cst.Arg], bound: Bindings) -> Iterator[Bindings]:
    rest = [pattern for pattern in patterns if _is_rest(pattern)]
    by_place = [argument for argument in nodes if argument.keyword is None]
    by_name = [argument for argument in nodes if argument.keyword is not None]
    for first in _match_run([pattern for pattern in patterns if pattern.keyword is None], by_place, bound):
        named = [pattern for pattern in patterns if pattern.keyword is not None]
        yield from _match_unordered([*named, *rest[:1]], by_name, first)


def _match_string(pattern: cst.BaseString, node: cst.BaseString, bound: Bindings) -> Iterator[Bindings]:
    left, right = (getattr(string, "evaluated_value", None) for string in (pattern, node))
    if left is not None or right is not None:
        if left == right and type(left) is type(right):
            yield bound
    elif type(pattern) is type(node):
        yield from _match_fields(pattern, node, semantic_fields(type(pattern)), bound)


def _suite(suite: cst.BaseSuite) -> list[cst.CSTNode]:
    """The statements of a block, whichever way it is laid out."""
    if isinstance(suite, cst.SimpleStatementSuite):
        return [cst.SimpleStatementLine(body=[small]) for small in suite.body]
    return list(suite.body)
