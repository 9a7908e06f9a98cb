"""add_keyword and into_dict: in whatever layout the upstream has."""

from __future__ import annotations

import pytest

from graft.edits.base import Match
from graft.edits.brackets import add_keyword, into_dict
from graft.errors import BadInput, GraftError
from tests.graft.edits.cases import check, found

W = "for the test"

KEYWORD = [
    ("def f():\n    g()\n", "def f():\n    g(k=v)\n"),
    ("def f():\n    g(a, b=1)\n", "def f():\n    g(a, b=1, k=v)\n"),
    ("def f():\n    g(a, )\n", "def f():\n    g(a, k=v, )\n"),
    (
        "def f():\n    g(\n        a,\n        b=1,  # one\n    )\n",
        "def f():\n    g(\n        a,\n        b=1,  # one\n        k=v,\n    )\n",
    ),
    (
        "def f():\n    g(\n        a,\n        b=1  # one\n    )\n",
        "def f():\n    g(\n        a,\n        b=1,  # one\n        k=v,\n    )\n",
    ),
    ("def f():\n    g(\n        a, b=1\n    )\n", "def f():\n    g(\n        a, b=1, k=v\n    )\n"),
    ("def f():\r\n    x = (g(a))\r\n", "def f():\r\n    x = (g(a, k=v))\r\n"),
    ("def f():\n    h(g(**kw))\n", "def f():\n    h(g(**kw, k=v))\n"),
]


@pytest.mark.parametrize(("old", "new"), KEYWORD)
def test_add_keyword(old: str, new: str) -> None:
    check(add_keyword("g(...)", add="k=v", why=W), old, new, "f")


DICT = [
    ('def f():\n    return {"a": x}\n', 'def f():\n    return {"a": x, "k": x}\n'),
    (
        'def f():\n    return {\n        "a": x,\n    }\n',
        'def f():\n    return {\n        "a": x,\n        "k": x,\n    }\n',
    ),
    (
        'def f():\n    return {\n        "a": x\n    }\n',
        'def f():\n    return {\n        "a": x,\n        "k": x,\n    }\n',
    ),
]


@pytest.mark.parametrize(("old", "new"), DICT)
def test_into_dict(old: str, new: str) -> None:
    check(into_dict('{"a": $v}', add='"k": $v', why=W), old, new, "f")


def test_into_dict_stars() -> None:
    old = 'def f():\n    g({"a": x, "b": y})\n    g({"a": x})\n'
    check(into_dict('{"a": x}', add="**more(x)", why=W), old, old.replace('{"a": x}', '{"a": x, **more(x)}'), "f")


def test_exactly_one_without_rest() -> None:
    assert found(into_dict('{"a": $v}', add='"k": 1', why=W), 'def f():\n    g({"a": 1, "b": 2})\n', "f") is Match.LOST
    assert found(add_keyword("g(...)", add="k=1", why=W), "def f():\n    g(g(1))\n", "f") is Match.AMBIGUOUS


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (add_keyword("g(...)", add="k=v", why=W), "def f():\n    g(k=other)\n"),
        (into_dict("{'a': 1, ...}", add="'k': v", why=W), "def f():\n    g({'a': 1, 'k': 2})\n"),
    ],
)
def test_the_same_entry_with_another_value_is_an_error(edit, text: str) -> None:
    with pytest.raises(GraftError, match="another value"):
        found(edit, text, "f")


@pytest.mark.parametrize(
    "make",
    [
        lambda: add_keyword("x", add="k=1", why=W),
        lambda: into_dict("f()", add="'k': 1", why=W),
        lambda: add_keyword("f()", add="k=1, l=2", why=W),
        lambda: into_dict("{'a': 1}", add="k=1", why=W),
        lambda: add_keyword("f()", add="k=$x", why=W),
    ],
)
def test_refused_where_it_is_written(make) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert "test_brackets.py:" in caught.value.where
