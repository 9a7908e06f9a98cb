"""Code that would end the process inside the native parser is refused before it gets there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graft.depth import CHAIN, LEVELS, too_deep
from graft.errors import BadInput, GraftError
from graft.pattern import parse
from graft.source import Source

DEEP = {
    "brackets": "x = " + "(" * 3_000 + "1" + ")" * 3_000,
    "calls": "x = " + "f(" * 3_000 + "1" + ")" * 3_000,
    "tables": "x = " + "{1: [" * 2_000 + "]}" * 2_000,
    "signs": "x = " + "-" * 30_000 + "1",
    "powers": "x = " + "2**" * 30_000 + "1",
    "words": "x = " + "not " * 30_000 + "y",
    "choices": "x = " + "1 if a else " * 30_000 + "1",
    "functions": "x = " + "lambda: " * 30_000 + "1",
    "branches": "if a:\n    pass\n" + "elif b:\n    pass\n" * 30_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_code_is_refused_by_name(kind: str) -> None:
    with pytest.raises(GraftError, match="nested too deeply") as caught:
        Source("deep.py", DEEP[kind].encode())
    assert caught.value.where == "deep.py"


@pytest.mark.parametrize("kind", ["brackets", "signs"])
def test_a_deep_pattern_is_refused(kind: str) -> None:
    with pytest.raises(BadInput, match="nested too deeply"):
        parse(DEEP[kind])


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * LEVELS + "1" + ")" * LEVELS,
        "x = [" + "-0.125, " * 20_000 + "]",
        "x = '" + "(" * 3_000 + "'",
        'x = """\n' + "(((\n" * 3_000 + '"""',
        "# " + "([{" * 3_000,
        "x = '" + "- " * 20_000 + "'",
    ],
    ids=["python's own limit", "numbers", "in a string", "in a long string", "in a comment", "signs in a string"],
)
def test_what_python_reads_is_not_refused(text: str) -> None:
    assert too_deep(text.encode()) == ""
    compile(text, "x", "exec")
    Source("x.py", text.encode())


def test_the_parser_bears_what_is_let_through() -> None:
    """In a process of its own: were it not so, it would be killed by a signal."""
    code = (
        "from graft.source import Source\n"
        f"for text in ('('*{LEVELS}+'1'+')'*{LEVELS}, '-'*{CHAIN - 1}+'1',\n"
        f"             '2**'*{CHAIN // 2 - 1}+'1', 'not '*{CHAIN - 1}+'1'):\n"
        "    Source('x.py', ('x = ' + text).encode())\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
