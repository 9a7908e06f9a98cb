"""after, before, replace: each case, and beside it that a second run does nothing."""

from __future__ import annotations

import pytest

from graft.edits.base import Match
from graft.edits.statements import after, before, replace
from graft.errors import BadInput
from tests.graft.edits.cases import apply_edit, check, found

W = "for the test"

AFTER = [
    ("def f():\n    a = g(1)\n    b\n", "def f():\n    a = g(1)\n    log(a)\n    b\n"),
    ("def f():\n    a = g(1)  # why\n", "def f():\n    a = g(1)  # why\n    log(a)\n"),
    ("def f():\n    a = g(1)", "def f():\n    a = g(1)\n    log(a)"),
    ("def f():\r\n\ta = g(1)\r\n\tb\r\n", "def f():\r\n\ta = g(1)\r\n\tlog(a)\r\n\tb\r\n"),
    (
        "def f():\n    a = g(\n        1,  # one\n    )\n\n    b\n",
        "def f():\n    a = g(\n        1,  # one\n    )\n    log(a)\n\n    b\n",
    ),
    (
        "def f():\n    if x:\n        a = g(1)\n    else:\n        b\n",
        "def f():\n    if x:\n        a = g(1)\n        log(a)\n    else:\n        b\n",
    ),
    ("async def f():\n  with é as ü:\n    a = g(1)\n", "async def f():\n  with é as ü:\n    a = g(1)\n    log(a)\n"),
]


@pytest.mark.parametrize(("old", "new"), AFTER)
def test_after(old: str, new: str) -> None:
    check(after("$x = g(1)", add="log($x)", why=W), old, new, "f")


BEFORE = [
    ("def f():\n    return a\n", "def f():\n    log(a)\n    return a\n"),
    (
        "def f():\n    x\n\n    # belongs to return\n    return a\n",
        "def f():\n    x\n\n    log(a)\n    # belongs to return\n    return a\n",
    ),
    ("def f():\n\treturn a", "def f():\n\tlog(a)\n\treturn a"),
    ("def f():\r\n  return a\r\n", "def f():\r\n  log(a)\r\n  return a\r\n"),
]


@pytest.mark.parametrize(("old", "new"), BEFORE)
def test_before(old: str, new: str) -> None:
    check(before("return $x", add="log($x)", why=W), old, new, "f")


def test_after_a_compound_statement() -> None:
    old = "def f():\n    for i in x:\n        a(i)\n\n        b(i)\n    # about c\n    c()\n"
    new = "def f():\n    for i in x:\n        a(i)\n\n        b(i)\n    done(x)\n    # about c\n    c()\n"
    check(after("for $i in $x: ...", add="done($x)", why=W), old, new, "f")


def test_two_lines_and_two_places() -> None:
    old = "def f():\n    step()\n    if a:\n        step()\n"
    new = "def f():\n    u()\n    v()\n    step()\n    if a:\n        u()\n        v()\n        step()\n"
    check(before("step()", add="u()\nv()", why=W, times=2), old, new, "f")


def test_replace_a_statement() -> None:
    old = "def f():\n    x = 1\n    if old(x):  # note\n        y()\n    z\n"
    new = "def f():\n    x = 1\n    if new(x):\n        y()\n    z\n"
    check(replace("if old($a): ...", with_="if new($a):\n    y()", why=W), old, new, "f")


def test_replace_an_expression() -> None:
    old = "def f():\n    return g(old(a, k=1))  # old(a)\n"
    new = "def f():\n    return g(new(a))  # old(a)\n"
    check(replace("old($x, ...)", with_="new($x)", why=W), old, new, "f")


def test_replace_that_wraps_what_it_replaces() -> None:
    check(
        replace("g($x)", with_="wrap(g($x))", why=W), "def f():\n    y = g(1)\n", "def f():\n    y = wrap(g(1))\n", "f"
    )


LOST = [
    'def f():\n    """a = g(1)"""\n    # a = g(1)\n    x = "a = g(1)"\n',  # only in a docstring, a comment, a string
    "def f():\n    def inner():\n        a = g(1)\n",  # in another definition
    "def h():\n    a = g(1)\ndef f(): pass\n",
    "def f():\n    if x: a = g(1)\n",  # shares its line
    "def f():\n    a = g(1); b()\n",
]


@pytest.mark.parametrize("text", LOST)
def test_lost(text: str) -> None:
    assert found(after("a = g(1)", add="b", why=W), text, "f") is Match.LOST


def test_too_often_is_ambiguous_and_so_is_half_done() -> None:
    edit = after("a()", add="b()", why=W)
    assert found(edit, "def f():\n    a()\n    a()\n", "f") is Match.AMBIGUOUS
    twice = after("a()", add="b()", why=W, times=2)
    assert found(twice, "def f():\n    a()\n    b()\n    a()\n", "f") is Match.AMBIGUOUS
    assert found(twice, "def f():\n    a()\n", "f") is Match.AMBIGUOUS


def test_what_stands_elsewhere_is_not_taken_for_the_edit() -> None:
    text = "def f():\n    a()\n    c()\n    b()\n"
    assert apply_edit(after("a()", add="b()", why=W), text, "f") == "def f():\n    a()\n    b()\n    c()\n    b()\n"


def test_every_definition_of_the_name_counts() -> None:
    text = "if x:\n    def f():\n        a()\nelse:\n    def f():\n        a()\n"
    assert found(after("a()", add="b()", why=W), text, "f") is Match.AMBIGUOUS
    assert apply_edit(after("a()", add="b()", why=W, times=2), text, "f").count("b()") == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: after("a()", add="b()", why=" "), "no reason"),
        (lambda: after("a()", add="b($x)", why=W), r"\$x is written"),
        (lambda: after("a()", add="", why=W), "adds nothing"),
        (lambda: after("a(", add="b", why=W), "does not parse"),
        (lambda: after("a()", add="b", why=W, times=0), "positive"),
        (lambda: replace("a()", with_="b = 1", why=W), "its replacement is not"),
    ],
)
def test_refused_where_it_is_written(make, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        make()
    assert "test_statements.py:" in caught.value.where


BOUND = [
    ("replace", "scale($x)", "$x.scaled()", "y = scale(a + b)", "y = (a + b).scaled()"),
    ("replace", "scale($x)", "$x.scaled()", "y = scale(f(a)[0])", "y = f(a)[0].scaled()"),
    ("replace", "loss = crit($x)", "loss = crit(2 * $x)", "loss = crit(a - b)", "loss = crit(2 * (a - b))"),
    ("replace", "f($x)", "g($x, k=1)", "y = f(a or b)", "y = g(a or b, k=1)"),
    ("replace", "f($x)", "g($x)", "y = f((a, b))", "y = g((a, b))"),
    ("replace", "$x = f()", "$x = h()", "a, b = f()", "(a, b) = h()"),
]


@pytest.mark.parametrize(("_", "pattern", "with_", "old", "new"), BOUND)
def test_what_is_bound_keeps_its_meaning(_: str, pattern: str, with_: str, old: str, new: str) -> None:
    check(replace(pattern, with_=with_, why=W), f"def f_():\n    {old}\n", f"def f_():\n    {new}\n", "f_")


def test_decorated_definitions_are_whole() -> None:
    old = "@cache\ndef g(): ...\n"
    check(before("def g(): ...", add="x = 1", why=W), old, "x = 1\n" + old, None)


def test_the_first_line_of_a_script_stays_first() -> None:
    old = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# about main\nmain()\n"
    new = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx = 1\n# about main\nmain()\n"
    check(before("main()", add="x = 1", why=W), old, new, None)


def test_a_dollar_sign() -> None:
    check(after("a()", add="print('$$HOME')", why=W), "a()\n", "a()\nprint('$HOME')\n", None)


def test_strings_of_several_lines_are_refused() -> None:
    with pytest.raises(BadInput, match="several lines"):
        after("a()", add="x = '''1\n2'''", why=W)
