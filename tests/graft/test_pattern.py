"""Anchors: what matches, what does not, what is bound."""

from __future__ import annotations

import pytest

from graft.errors import BadInput
from graft.pattern import code, fill, match, parse, variables

MATCHES = [
    # pattern, code, bindings
    ("return model", "return (model)", {}),
    ("f(a, b=1, c='x')", 'f(a,\n  c="x",  # why\n  b=1,)', {}),
    ("$vla = DDP($vla, ...)", "vla = DDP(vla, device_ids=[x], find_unused=True)", {"vla": "vla"}),
    ("$_ = f($_)", "a = f(b)", {}),
    ("f(a, b=1, ...)", "f(a, q, c=2, b=1)", {}),
    ("f(..., b=1)", "f(a, q, b=1)", {}),
    ("f(...)", "f(*args, **kwargs)", {}),
    ("f(*$a)", "f(*args)", {"a": "args"}),
    ('{"role": $r, "content": $c}', "{'content': m[1], 'role': t[x],}", {"r": "t[x]", "c": "m[1]"}),
    ('{"role": $r, ...}', '{"other": 1, "role": t}', {"r": "t"}),
    ("[a, ..., z]", "[a, b, c, z]", {}),
    ("x = f(y)", "x: int = f(y)", {}),
    ("x = ...", "x = g(1) + 2", {}),
    ("for $i in $x: ...", "for a in range(3):\n    print(a)\n    b()", {"i": "a", "x": "range(3)"}),
    ("if $c:\n    ...\n    return x", "if a:\n    b()\n    c()\n    return x", {"c": "a"}),
    ("if a: b()", "if a:\n    b()", {}),
    ("with torch.no_grad(): ...", "with torch.no_grad():\n    f()", {}),
    ("f'a{x}'", 'f"a{x}"', {}),
    ("'ab'", '"a" "b"', {}),
    ("a < b", "(a)  <  b", {}),
    ("x[a, ...]", "x[a, b, c]", {}),
    ("lambda x: ...", "lambda x: x + 1", {}),
    ("from a import b, c", "from a import (\n    b,\n    c,\n)", {}),
    ("def f(x, y=1): ...", "def f(x, y = 1):\n    return 2", {}),
    ("await $x", "await  go()", {"x": "go()"}),
    ("$a.b.c($d)", "model.x.b.c(1)", {"a": "model.x", "d": "1"}),
]

DIFFERS = [
    ("$vla = DDP($vla, ...)", "vla = DDP(model, find_unused=True)"),
    ("f(a, b=1)", "f(a, b=1, c=2)"),
    ("f(a, b)", "f(b, a)"),
    ("f(a)", "f(*a)"),
    ("f(a=1)", "f(a=2)"),
    ("{'a': 1}", "{'a': 1, 'b': 2}"),
    ("[a, b]", "[b, a]"),
    ("f'a{x}'", "f'b{x}'"),
    ("f'a{x}'", "'a{x}'"),
    ("'a'", "b'a'"),
    ("-1.0", "-2.0"),
    ("a < b", "a > b"),
    ("x += 1", "x -= 1"),
    ("x[1:2]", "x[1:3]"),
    ("async def f(x): ...", "def f(x): ..."),
    ("x = f(y)", "x: int"),
    ("a.b", "a.c"),
    ("if $c: return x", "if a:\n    b()\n    return x"),
    ("not x", "x"),
    ("x if a else b", "x if b else a"),
    ("from a import b", "from .a import b"),
    ("import a", "import a as b"),
]


@pytest.mark.parametrize(("pattern", "text", "bound"), MATCHES)
def test_matches(pattern: str, text: str, bound: dict[str, str]) -> None:
    found = match(parse(pattern), parse(text))
    assert found is not None
    assert {name: code(node) for name, node in found.items()} == bound


@pytest.mark.parametrize(("pattern", "text"), DIFFERS)
def test_differs(pattern: str, text: str) -> None:
    assert match(parse(pattern), parse(text)) is None


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("f(", "does not parse"), ("a; b\nc", "not one"), ("", "0 statements"), ("x = $", "does not parse")],
)
def test_refuses(pattern: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        parse(pattern, where="patches/x.py:3")
    assert caught.value.where == "patches/x.py:3"


def test_fill_puts_the_code_that_was_bound() -> None:
    bound = match(parse("$a = g($b)"), parse("x.y = g(z[1], )"))
    assert bound is not None
    assert fill("h($a, $b)", bound) == "h(x.y, z[1])"
    assert variables("h($a, $b, $_)") == {"a", "b"}
