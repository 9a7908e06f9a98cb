"""Edits that give a module an import, a class a field or a base, a function a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import libcst as cst

from graft.edits.base import Edit, Known, Site, Splice, below_magic, caller, line_end, line_start
from graft.edits.brackets import append, prepend
from graft.errors import BadInput, GraftError
from graft.pattern import code, parse, parse_statements, same, single
from graft.source import Definition, Source, Span, block_statements


def _small(
    text: str, where: str, kinds: tuple[type[cst.BaseSmallStatement], ...], example: str
) -> cst.BaseSmallStatement:
    found = parse_statements(text, where=where)
    small = single(found[0]) if len(found) == 1 else None
    if not isinstance(small, kinds):
        raise BadInput(f"{text!r} is not what is added here", where=where, remedy=f"write it like {example}")
    return small


@dataclass(frozen=True, kw_only=True)
class Member(Edit):
    """Shared by the edits that add one named thing to the definition itself."""

    add: str

    @property
    def anchor(self) -> str:
        return "the definition itself"

    @property
    def added(self) -> str:
        return self.add.strip()


@dataclass(frozen=True, kw_only=True)
class AddImport(Member):
    """A module-level import, below the last import of the module's head."""

    syntax: cst.Import | cst.ImportFrom = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        small = _small(self.add, self.where, (cst.Import, cst.ImportFrom), "add_import('from ..hsa import tag')")
        assert isinstance(small, cst.Import | cst.ImportFrom)
        object.__setattr__(self, "syntax", small)

    @property
    def verb(self) -> str:
        return "add_import"

    def adds_statement(self, statement: cst.CSTNode) -> bool:
        small = single(statement)
        return small is not None and same(self.syntax, small)

    def find_scopes(self, source: Source) -> Sequence[Definition]:
        return [source.module]

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        block = list(source.module.body)
        if any(self._provides(statement) for statement in block):
            yield Site(source.module, None)
            return
        head = [statement for statement in block if _is_import(statement)]
        stop = next((i for i, s in enumerate(block) if isinstance(s, cst.ClassDef | cst.FunctionDef)), len(block))
        head = [statement for statement in block[:stop] if _is_import(statement)] or head[:1]
        anchor = head[-1] if head else next(iter(block[:1] if _has_docstring(block) else []), None)
        text = self.added.encode()
        if anchor is None:
            head_end = below_magic(source.content)
            yield Site(source.module, Splice(head_end, head_end, text + source.newline, (0, 0)))
            return
        span = source.span(anchor)
        offset = line_end(source.content, span[1])
        complete = source.content[:offset].endswith(b"\n")
        line = text + source.newline if complete else source.newline + text
        yield Site(anchor, Splice(offset, offset, line, span))

    def _provides(self, statement: cst.CSTNode) -> bool:
        """Whether a line imports the same names from the same place, perhaps with others."""
        small = single(statement)
        if isinstance(self.syntax, cst.Import) or not isinstance(small, cst.ImportFrom):
            return small is not None and same(self.syntax, small)
        if isinstance(self.syntax.names, cst.ImportStar) or isinstance(small.names, cst.ImportStar):
            return same(self.syntax, small)
        alone = small.with_changes(names=self.syntax.names)
        names = list(small.names)
        return same(self.syntax, alone) and all(any(same(own, name) for name in names) for own in self.syntax.names)


def _is_import(statement: cst.CSTNode) -> bool:
    return isinstance(single(statement), cst.Import | cst.ImportFrom)


def _has_docstring(block: Sequence[cst.CSTNode]) -> bool:
    small = single(block[0]) if block else None
    return isinstance(small, cst.Expr) and isinstance(small.value, cst.BaseString)


@dataclass(frozen=True, kw_only=True)
class AddField(Member):
    """A class gets a field with a default, below its last one."""

    syntax: cst.AnnAssign | cst.Assign = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        small = _small(self.add, self.where, (cst.AnnAssign, cst.Assign), "add_field('use_it: bool = False')")
        assert isinstance(small, cst.AnnAssign | cst.Assign)
        if small.value is None:
            raise BadInput(
                f"{self.add!r} has no default", where=self.where, remedy="a method is off by default: give one"
            )
        object.__setattr__(self, "syntax", small)

    @property
    def verb(self) -> str:
        return "add_field"

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        if not isinstance(scope, cst.ClassDef):
            raise BadInput(
                "add_field works on a class", where=self.where, remedy='name one: In("file.py", "Class", ...)'
            )
        block = block_statements(scope.body)
        name = _target(self.syntax)
        for statement in block:
            small = single(statement)
            if name is not None and (found := _target(small)) is not None and same(name, found):
                if small is not None and same(self.syntax, small):
                    yield Site(statement, None)
                    return
                raise GraftError(
                    f"the class has a field {code(found)} of another definition",
                    where=f"{source.path}:{source.line_of(statement)}",
                    remedy="rename the pack's field, or retire the edit",
                )
        own = [index for index, statement in enumerate(block) if isinstance(single(statement), cst.AnnAssign)]
        if own and _has_docstring(block[own[-1] + 1 :]):  # the field's own docstring stays with it
            own[-1] += 1
        anchor = block[own[-1]] if own else block[0] if _has_docstring(block) else None
        if anchor is None and not block:
            raise GraftError("the class has its body on its first line", where=f"{source.path}:{source.line_of(scope)}")
        beside = anchor if anchor is not None else block[0]
        start, end = source.span(beside)
        first = line_start(source.content, start)
        indent = source.content[first:start]
        lines = source.newline.join(indent + line.encode() for line in self.added.split("\n")) + source.newline
        offset = line_end(source.content, end) if anchor is not None else first
        if not source.content[:offset].endswith(b"\n") and offset:
            lines = source.newline + lines[: -len(source.newline)]
        yield Site(scope, Splice(offset, offset, lines, (start, end), key=code(name) if name is not None else ""))


def _target(small: cst.CSTNode | None) -> cst.BaseExpression | None:
    if isinstance(small, cst.AnnAssign):
        return small.target
    if isinstance(small, cst.Assign) and len(small.targets) == 1:
        return small.targets[0].target
    return None


@dataclass(frozen=True, kw_only=True)
class AddBase(Member):
    """A class gets one more base, in front of the others."""

    syntax: cst.BaseExpression = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        syntax = parse(self.add, where=self.where)
        if not isinstance(syntax, cst.Name | cst.Attribute):
            raise BadInput(f"{self.add!r} is no class name", where=self.where, remedy="write add_base('Mixin')")
        object.__setattr__(self, "syntax", syntax)

    @property
    def verb(self) -> str:
        return "add_base"

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        if not isinstance(scope, cst.ClassDef):
            raise BadInput(
                "add_base works on a class", where=self.where, remedy='name one: In("file.py", "Class", ...)'
            )
        if any(same(self.syntax, base.value) for base in scope.bases):
            yield Site(scope, None)
            return
        name = source.span(scope.name)
        if scope.bases:
            yield Site(scope, prepend(source, source.span(scope.bases[0])[0], self.added, name))
            return
        behind = source.span(scope.type_parameters)[1] if scope.type_parameters is not None else name[1]
        opening = source.content.find(b"(", behind, source.content.index(b":", behind))
        if opening < 0:
            yield Site(scope, Splice(behind, behind, b"(" + self.added.encode() + b")", name))
        else:
            keywords = b", " if scope.keywords else b""
            yield Site(scope, Splice(opening + 1, opening + 1, self.added.encode() + keywords, name))


@dataclass(frozen=True, kw_only=True)
class AddParameter(Member):
    """A function gets one more parameter with a default, behind the others and in front of ``**kwargs``."""

    syntax: cst.Param = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        found = parse_statements(f"def f({self.add}): ...", where=self.where)
        parameters = found[0].params.params if isinstance(found[0], cst.FunctionDef) else ()
        if len(parameters) != 1 or parameters[0].default is None:
            raise BadInput(
                f"{self.add!r} is not one parameter with a default",
                where=self.where,
                remedy="write add_parameter('scale: float = 1.0'), so that callers who do not know it still work",
            )
        object.__setattr__(self, "syntax", parameters[0])

    @property
    def verb(self) -> str:
        return "add_parameter"

    def sites(self, source: Source, scope: Definition, known: Known) -> Iterator[Site]:
        if not isinstance(scope, cst.FunctionDef):
            raise BadInput(
                "add_parameter works on a function", where=self.where, remedy='In("file.py", "function", ...)'
            )
        params = scope.params
        plain = [*params.posonly_params, *params.params, *params.kwonly_params]
        for param in plain:
            if same(self.syntax.name, param.name):
                if same(self.syntax, param):
                    yield Site(scope, None)
                    return
                raise GraftError(
                    f"the function has a parameter {param.name.value} of another definition",
                    where=f"{source.path}:{source.line_of(scope)}",
                    remedy="rename the pack's parameter, or retire the edit",
                )
        name = source.span(scope.name)
        if params.star_kwarg is not None:
            stars = source.content.rindex(b"**", 0, source.span(params.star_kwarg)[1])
            made = prepend(source, stars, self.added, name)
            yield Site(scope, replace(made, key=self.syntax.name.value))
            return
        star = [params.star_arg] if isinstance(params.star_arg, cst.Param | cst.ParamStar) else []
        slash = [params.posonly_ind] if isinstance(params.posonly_ind, cst.ParamSlash) else []
        ordered = [*params.posonly_params, *slash, *params.params, *star, *params.kwonly_params]
        behind = source.span(scope.type_parameters)[1] if scope.type_parameters is not None else name[1]
        closing = _closing(source.content, source.content.index(b"(", behind))
        last = _whole(source, ordered[-1]) if ordered else None
        yield Site(scope, replace(append(source, last, closing, self.added, name), key=self.syntax.name.value))


def _whole(source: Source, param: cst.Param | cst.ParamStar | cst.ParamSlash) -> Span:
    """The span of a parameter with its annotation and default, which libcst does not count to it."""
    parts = [part for child in param.children for part in (child, *child.children)]
    spans = [source.span(part) for part in (param, *parts) if not _is_trivia(part)]
    return min(start for start, _ in spans), max(end for _, end in spans)


def _is_trivia(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.BaseParenthesizableWhitespace | cst.Comma | cst.AssignEqual)


def _closing(content: bytes, opening: int) -> int:
    """The offset of the bracket that closes the parameter list; found by its syntax, not by counting."""
    text = content[opening:].decode()
    for offset, char in enumerate(text):
        if char == ")":
            try:
                cst.parse_module(f"def f{text[: offset + 1]}: ...\n")
            except cst.ParserSyntaxError:
                continue
            return opening + len(text[:offset].encode())
    raise GraftError("the parameter list does not end", remedy="mend the file's syntax")


def add_import(statement: str, *, why: str) -> AddImport:
    """The module gets the import ``statement``; relative ones follow a definition that moved."""
    return AddImport(add=statement, why=why, where=caller())


def add_field(assignment: str, *, why: str) -> AddField:
    """The class gets the field ``assignment`` (``name: type = default``)."""
    return AddField(add=assignment, why=why, where=caller())


def add_base(name: str, *, why: str) -> AddBase:
    """The class gets the base ``name``, in front of the others."""
    return AddBase(add=name, why=why, where=caller())


def add_parameter(parameter: str, *, why: str) -> AddParameter:
    """The function gets ``parameter`` (``name: type = default``)."""
    return AddParameter(add=parameter, why=why, where=caller())
