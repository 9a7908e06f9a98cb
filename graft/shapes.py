"""What of a statement can be compared with another: what it calls, what it assigns, its names, its kind, its tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import libcst as cst

from graft.pattern import code
from graft.source import Definition, blocks, semantic_fields

_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w*")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_VARIABLE = re.compile(r"\$\w+|__graft_var_\w+")
_NOTHING = cst.SimpleStatementSuite(body=[cst.Pass()])
_SUITES = ("body", "handlers", "cases", "orelse", "finalbody")


@dataclass(frozen=True)
class Shape:
    """What of a statement is compared. Of a compound one this is its head."""

    kind: str
    tokens: tuple[str, ...]
    calls: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    names: Counter[str] = field(default_factory=Counter)
    open: bool = False  # a pattern: what stands for anything may be longer in the statement


@dataclass(frozen=True)
class Placed:
    """A statement with its place in the definition."""

    node: cst.CSTNode
    shape: Shape
    parent: tuple[str, ...]  # the heads of the compound statements around it, innermost last


def flatten(scope: Definition) -> list[Placed]:
    """Every statement of one definition in the order of the text, each with what encloses it."""
    found: list[Placed] = []

    def walk(block: Iterable[cst.CSTNode], parent: tuple[str, ...]) -> None:
        for statement in block:
            shape = shape_of(statement)
            found.append(Placed(statement, shape, parent))
            if not isinstance(statement, cst.ClassDef | cst.FunctionDef):
                for suite in _suites(statement):
                    walk(suite, (*parent, " ".join(shape.tokens)))

    walk(next(iter(blocks(scope.body)), []), ())
    return found


def _suites(statement: cst.CSTNode) -> Iterator[list[cst.CSTNode]]:
    """The blocks directly inside a compound statement, in the order of the text."""
    for name in _SUITES:
        part = getattr(statement, name, None)
        for child in part if isinstance(part, list | tuple) else [part]:
            if isinstance(child, cst.IndentedBlock):
                yield list(child.body)
            elif isinstance(child, cst.CSTNode) and not isinstance(child, cst.BaseSuite):  # elif, else, except, ...
                yield from _suites(child)


def shape_of(node: cst.CSTNode) -> Shape:
    """The shape of a statement or an expression, without comments, annotations' spacing and what is below it."""
    parts: list[cst.CSTNode]
    if isinstance(node, cst.SimpleStatementLine):
        parts = list(node.body)
        kind = "+".join(_kind(small) for small in node.body)
    elif isinstance(node, cst.BaseCompoundStatement):
        parts, kind = list(_head(node)), _kind(node)
    else:
        parts, kind = [node], _kind(node)
    text = head_text(node) if isinstance(node, cst.BaseCompoundStatement) else " ".join(map(code, parts))
    is_open = bool(_VARIABLE.search(text)) or "..." in text
    text = _VARIABLE.sub(" ", text).replace("...", " ") if is_open else text
    calls, targets = set(), set(_NAME.findall(code(node.target))) if isinstance(node, cst.For) else set()
    for inner in _walk(parts):
        if isinstance(inner, cst.Call):
            calls |= _last_names(inner.func)
        elif isinstance(inner, cst.AssignTarget | cst.AnnAssign | cst.AugAssign | cst.NamedExpr):
            targets |= set(_NAME.findall(code(inner.target)))
        elif isinstance(inner, cst.AsName):
            targets |= set(_NAME.findall(code(inner.name)))
    drop = {name for name in (*calls, *targets) if name.startswith("__graft_var_")}
    return Shape(
        kind=kind,
        tokens=tuple(_TOKEN.findall(text)),
        calls=frozenset(calls - drop),
        targets=frozenset(targets - drop),
        names=Counter(word for name in _NAME.findall(text) for word in words(name)),
        open=is_open,
    )


def words(name: str) -> set[str]:
    """A name and the words it is made of, so that ``AdamW`` and ``Adam`` have something in common."""
    return {name, *(word.lower() for word in _WORD.findall(name))}


def head_text(statement: cst.BaseCompoundStatement) -> str:
    """A compound statement without its blocks."""
    bare: dict[str, object] = {"leading_lines": ()}
    if isinstance(statement, cst.Match):
        return f"match {code(statement.subject)}:"
    if isinstance(statement, cst.Try | cst.TryStar):
        return "try:"
    bare |= {name: empty for name, empty in (("body", _NOTHING), ("orelse", None)) if hasattr(statement, name)}
    return code(statement.with_changes(**bare)).removesuffix("pass").rstrip()


def _kind(node: cst.CSTNode) -> str:
    if isinstance(node, cst.AnnAssign | cst.AugAssign):
        return "Assign"
    if isinstance(node, cst.Expr):
        return _kind(node.value)
    return type(node).__name__


def _head(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for name in semantic_fields(type(node)):
        part = getattr(node, name)
        if name not in _SUITES:
            children = part if isinstance(part, list | tuple) else [part]
            yield from (child for child in children if isinstance(child, cst.CSTNode))


def _walk(nodes: Iterable[cst.CSTNode]) -> Iterator[cst.CSTNode]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def _last_names(func: cst.BaseExpression) -> set[str]:
    if isinstance(func, cst.Attribute):
        return {func.attr.value}
    return {func.value} if isinstance(func, cst.Name) else set()


def shape_of_pattern(syntax: cst.CSTNode) -> Shape:
    if isinstance(syntax, cst.BaseExpression):
        return shape_of(cst.SimpleStatementLine(body=[cst.Expr(value=syntax)]))
    return shape_of(syntax)


def nearest(syntax: cst.CSTNode, placed: Placed) -> Shape:
    """Of the expressions of a statement's head the one most like a pattern; itself where none is of that kind."""
    wanted = set(_NAME.findall(code(syntax)))
    best, most = placed.shape, -1.0
    parts = placed.node.body if isinstance(placed.node, cst.SimpleStatementLine) else list(_head(placed.node))
    for part in parts:
        for node in _walk([part]):
            if type(node) is type(syntax):
                names = set(_NAME.findall(code(node)))
                shared = len(wanted & names) / max(len(wanted | names), 1)
                if shared > most:
                    best, most = shape_of(cst.SimpleStatementLine(body=[cst.Expr(value=node)])), shared  # type: ignore[arg-type]
    return best
