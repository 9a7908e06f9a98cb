"""add_import, add_field, add_base, add_parameter."""

from __future__ import annotations

import pytest

from graft.edits.members import add_base, add_field, add_import, add_parameter
from graft.errors import BadInput, GraftError
from tests.graft.edits.cases import check, found

W = "for the test"

IMPORT = [
    ("#!/usr/bin/env python\nx = 1\n", "#!/usr/bin/env python\nfrom .m import n\nx = 1\n"),
    ("import os\nfrom a import b\n\nx = 1\n", "import os\nfrom a import b\nfrom .m import n\n\nx = 1\n"),
    (
        "from a import (\n    b,\n    c,\n)  # two\nx\n",
        "from a import (\n    b,\n    c,\n)  # two\nfrom .m import n\nx\n",
    ),
    ('"""Doc."""\n\nx = 1\n', '"""Doc."""\nfrom .m import n\n\nx = 1\n'),
    ("x = 1\n", "from .m import n\nx = 1\n"),
    ("", "from .m import n\n"),
    (
        "import a\nif t:\n    import b\nimport c\ndef f(): pass\nimport d\n",
        "import a\nif t:\n    import b\nimport c\nfrom .m import n\ndef f(): pass\nimport d\n",
    ),
    ("import os\r\n", "import os\r\nfrom .m import n\r\n"),
    ("import os", "import os\nfrom .m import n"),
]


@pytest.mark.parametrize(("old", "new"), IMPORT)
def test_add_import(old: str, new: str) -> None:
    check(add_import("from .m import n", why=W), old, new, None)


@pytest.mark.parametrize("line", ["from .m import n", "from .m import a, n", "from .m import (n, z)"])
def test_an_import_that_is_there(line: str) -> None:
    assert found(add_import("from .m import n", why=W), f"import os\n{line}\n", None).value == "present"


@pytest.mark.parametrize("line", ["from m import n", "from .m import n as k", "from .m import o", "from ..m import n"])
def test_an_import_that_only_looks_alike(line: str) -> None:
    assert found(add_import("from .m import n", why=W), f"{line}\n", None).value == "ready"


FIELD = [
    (
        'class A:\n    x: int = 1\n    """About x."""\n',
        'class A:\n    x: int = 1\n    """About x."""\n    y: int = 2\n',
    ),
    (
        "class A:\n    @property\n    def p(self): ...\n",
        "class A:\n    y: int = 2\n    @property\n    def p(self): ...\n",
    ),
    (
        "class A:\n    x: int = 1\n\n    def f(self): ...\n",
        "class A:\n    x: int = 1\n    y: int = 2\n\n    def f(self): ...\n",
    ),
    (
        'class A:\n    """Doc."""\n\n    def f(self): ...\n',
        'class A:\n    """Doc."""\n    y: int = 2\n\n    def f(self): ...\n',
    ),
    ("class A:\n    def f(self): ...\n", "class A:\n    y: int = 2\n    def f(self): ...\n"),
    (
        "class A:\n    x: int = field(\n        default=1,\n    )  # one",
        "class A:\n    x: int = field(\n        default=1,\n    )  # one\n    y: int = 2",
    ),
    ("class A:\r\n\tx: int = 1\r\n", "class A:\r\n\tx: int = 1\r\n\ty: int = 2\r\n"),
]


@pytest.mark.parametrize(("old", "new"), FIELD)
def test_add_field(old: str, new: str) -> None:
    check(add_field("y: int = 2", why=W), old, new, "A")


BASE = [
    ("class A[T]:\n    x = 1\n", "class A[T](M):\n    x = 1\n"),
    ("@dataclass\nclass A:\n    x = 1\n", "@dataclass\nclass A(M):\n    x = 1\n"),
    ("class A:\n    x = 1\n", "class A(M):\n    x = 1\n"),
    ("class A():\n    x = 1\n", "class A(M):\n    x = 1\n"),
    ("class A(B, C):\n    x = 1\n", "class A(M, B, C):\n    x = 1\n"),
    ("class A(metaclass=T):\n    x = 1\n", "class A(M, metaclass=T):\n    x = 1\n"),
    ("class A(\n    B,\n    C,\n):\n    x = 1\n", "class A(\n    M,\n    B,\n    C,\n):\n    x = 1\n"),
]


@pytest.mark.parametrize(("old", "new"), BASE)
def test_add_base(old: str, new: str) -> None:
    check(add_base("M", why=W), old, new, "A")


PARAMETER = [
    ("def f[T: (int, str)](a: T): pass\n", "def f[T: (int, str)](a: T, k: int = 0): pass\n"),
    ("def f(): pass\n", "def f(k: int = 0): pass\n"),
    ("def f(a, b=1): pass\n", "def f(a, b=1, k: int = 0): pass\n"),
    ("def f(a: dict[str, int] = {}) -> x: pass\n", "def f(a: dict[str, int] = {}, k: int = 0) -> x: pass\n"),
    ("def f(a, *args, **kw): pass\n", "def f(a, *args, k: int = 0, **kw): pass\n"),
    ("def f(a, *, b): pass\n", "def f(a, *, b, k: int = 0): pass\n"),
    ("def f(a, *args): pass\n", "def f(a, *args, k: int = 0): pass\n"),
    ("def f(a, /): pass\n", "def f(a, /, k: int = 0): pass\n"),
    ("def f(\n    a,\n    b=(1),\n): pass\n", "def f(\n    a,\n    b=(1),\n    k: int = 0,\n): pass\n"),
    ("def f(\n    a,\n    **kw,\n): pass\n", "def f(\n    a,\n    k: int = 0,\n    **kw,\n): pass\n"),
    ('def f(a=")"): pass\n', 'def f(a=")", k: int = 0): pass\n'),
]


@pytest.mark.parametrize(("old", "new"), PARAMETER)
def test_add_parameter(old: str, new: str) -> None:
    check(add_parameter("k: int = 0", why=W), old, new, "f")


@pytest.mark.parametrize(
    ("edit", "text", "definition"),
    [
        (add_field("y: int = 2", why=W), "class A:\n    y: int = 3\n", "A"),
        (add_parameter("k: int = 0", why=W), "def f(k=1): pass\n", "f"),
    ],
)
def test_the_same_name_with_another_definition_is_an_error(edit, text: str, definition: str) -> None:
    with pytest.raises(GraftError, match="another definition"):
        found(edit, text, definition)


@pytest.mark.parametrize(
    "make",
    [
        lambda: add_import("x = 1", why=W),
        lambda: add_field("y: int", why=W),
        lambda: add_base("f()", why=W),
        lambda: add_parameter("k", why=W),
        lambda: add_parameter("k=1, l=2", why=W),
    ],
)
def test_refused_where_it_is_written(make) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert "test_members.py:" in caught.value.where
