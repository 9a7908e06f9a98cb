"""Files: offsets that equal libcst's own, definitions by name, blocks, and what is refused."""

from __future__ import annotations

import sys

import libcst as cst
import pytest
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

from graft.errors import GraftError
from graft.source import Source, blocks, expressions
from graft.spans import spans_of

CODE = '''# é comment
"""Doc."""
import os  # trailing


@decorate(1)
class A(Base, metaclass=M):
    """Doc."""

    x: int = 0

    if os.name:

        def m(self, a, *, b=1, **kw):  # note
            def inner():
                return "ü", f"{a!r:>{b}}"

            # above
            for i in range(3):
                try:
                    a = (i)
                except ValueError as e:
                    raise
                else:
                    pass
                finally:
                    done()
            return inner
            # below


async def f(): return 1
match x:
    case [1, *rest]:
        g()
'''


@pytest.mark.parametrize(
    "text", [CODE, CODE.replace("\n", "\r\n"), CODE.replace("    ", "\t"), "", "x = 1", "# only\n"]
)
def test_spans_are_those_of_libcst(text: str) -> None:
    module = cst.parse_module(text.encode())
    reference = MetadataWrapper(module, unsafe_skip_copy=True).resolve(ByteSpanPositionProvider)
    assert spans_of(module) == {node: (span.start, span.start + span.length) for node, span in reference.items()}


def test_definitions_by_qualified_name() -> None:
    source = Source("a.py", CODE.encode())
    names = {name: len(source.definitions(name)) for name in ("A", "A.m", "A.m.inner", "f", "m", "A.f", "B")}
    assert names == {"A": 1, "A.m": 1, "A.m.inner": 1, "f": 1, "m": 0, "A.f": 0, "B": 0}
    assert source.definitions(None) == [source.module]


def test_blocks_of_a_scope_leave_out_inner_definitions() -> None:
    (method,) = Source("a.py", CODE.encode()).definitions("A.m")
    heads = [
        [cst.Module([]).code_for_node(node).strip().split("\n")[0] for node in block] for block in blocks(method.body)
    ]
    assert heads == [
        ["def inner():", "# above", "return inner"],
        ["try:"],
        ["a = (i)"],
        ["raise"],
        ["pass"],
        ["done()"],
    ]


def test_expressions_are_all_there() -> None:
    (method,) = Source("a.py", CODE.encode()).definitions("A.m")
    found = {cst.Module([]).code_for_node(node) for node in expressions(method)}
    assert {"range(3)", 'f"{a!r:>{b}}"', "done()", "(i)", "ValueError"} <= found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x = '\xff'\n", "not UTF-8"),
        (b"# -*- coding: latin-1 -*-\nx = 1\n", "encoding latin-1"),
        (b"\xef\xbb\xbfx = 1\n", "byte order mark"),
        (b"def f(:\n", "not Python"),
    ],
)
def test_what_cannot_be_read_is_named(content: bytes, says: str) -> None:
    with pytest.raises(GraftError, match=says) as caught:
        Source("pkg/a.py", content)
    assert "pkg/a.py" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "line",
    [b"x = " + b" + ".join([b"a"] * 900), b"x = (" + b"\n".join([b"'piece'"] * 600) + b")"],
    ids=["a sum of 900", "a string of 600 pieces"],
)
def test_long_sums_and_strings_are_read(line: bytes) -> None:
    usual = sys.getrecursionlimit()
    source = Source("f.py", b"# above\n" + line + b"\n")
    start, end = source.span(source.module.body[0])
    assert source.content[start:end] == line
    assert sys.getrecursionlimit() == usual


def test_what_is_nested_too_deeply_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.spans.DEPTH", 1000)
    usual = sys.getrecursionlimit()
    module = cst.parse_module("x = a" + ".b()" * 900 + "\n")
    with pytest.raises(GraftError, match="nested too deeply") as caught:
        spans_of(module, "far/down.py")
    assert caught.value.where == "far/down.py"
    assert caught.value.remedy
    assert sys.getrecursionlimit() == usual
