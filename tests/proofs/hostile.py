"""What the fuzz is made of: locks with faults, edits and paths of any kind."""

from __future__ import annotations

from hypothesis import strategies as st

# the lock

WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "..", "../x", "/etc/passwd", "-x", "--upload-pack=touch x", "ext::sh -c touch% x", "file:///", "a\0b", "~"]
    ),
    st.sampled_from(
        ["upstreams/tool/x", "upstreams", ".git", "upstreams/other", "UPSTREAMS/tool", "a" * 300, "\u202e"]
    ),
    st.sampled_from(["https://[", "file://[x", "ssh://-oProxyCommand=x/y", "git@-x:y", "/", "0" * 40, "tool", "speed"]),
)
VALUES = st.one_of(
    WORDS.map(lambda text: _toml(text)),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["true", "[]", "{}", "1.5", "nan", "1979-05-27", "[[]]", '["speed", 1]', '["speed", "speed"]']),
    st.lists(WORDS, max_size=3).map(lambda texts: f"[{', '.join(map(_toml, texts))}]"),
)


def _toml(text: str) -> str:
    shown = "".join(c if c.isprintable() and c not in '"\\' and ord(c) < 0xD800 else f"\\u{ord(c):04x}" for c in text)
    return f'"{shown}"' if all(ord(c) < 0x10000 for c in text) else '"x"'


@st.composite
def locks(draw: st.DrawFn, lock: bytes) -> bytes:
    """A lock with one to three faults: bytes, lines, keys or values that are others."""
    text = lock
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split(b"\n")
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(
            st.sampled_from(["bytes", "cut", "key", "value", "value", "value", "twice", "lose", "swap", "table"])
        )
        key, equals, value = lines[at].partition(b" = ")
        if kind == "bytes":
            place = draw(st.integers(0, len(text)))
            text = text[:place] + draw(st.binary(min_size=1, max_size=4)) + text[place + draw(st.integers(0, 3)) :]
            continue
        if kind == "cut":
            text = text[: draw(st.integers(0, len(text)))]
            continue
        if kind == "table":
            lines[at] = b"[" + draw(WORDS).encode("utf-8", "replace").replace(b"\n", b"") + b"]"
        elif kind == "lose":
            del lines[at]
        elif kind == "twice":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "key":
            lines[at] = _toml(draw(WORDS)).encode("utf-8", "replace") + equals + value
        else:
            lines[at] = key + b" = " + draw(VALUES).encode("utf-8", "replace")
        text = b"\n".join(lines)
    return text


# packs and patterns

PIECES = [
    "return model",
    "loss = $m.forward(step)",
    "$x",
    "$x = $y",
    "...",
    "$",
    "$1",
    "$$",
    "f(...)",
    "f(*, ...)",
    "lambda: $x",
    "def f(): ...",
    "class A: pass",
    "if $x:\n    pass",
    "x = ",
    "(",
    ")",
    "'''",
    "\\",
    "# c",
    "\t",
    "\n",
    ";",
    ":",
    "**$k",
    "*$a",
    "f'{$x}'",
    "yield",
    "await x",
    "async def f(): pass",
    "import a",
    "from . import b",
    "from a import *",
    "@d",
    "$x.$y",
    "$x($x)",
    "True",
    "None",
    "1",
    "0x",
    "1e999",
    "a if b else c",
    "[*$x]",
    "{**$x}",
    "x: int = 1",
    "y := 2",
    "\0",
    "\u202e",
    "\r",
    "\x0c",
    "match x:\n    case 1: pass",
    "return $x\nreturn $y",
    "k=1",
    "k=$x",
    "'k': 1",
    "x, y",
    "(" * 150,
    "Model(config.size)",
    "halve",
    "speed: bool = False",
    "import math",
    "a" * 5000,
    "-" * 400 + "x",
    "x." * 500 + "y",
]
TEXTS = st.one_of(
    st.sampled_from(PIECES),
    st.lists(st.sampled_from(PIECES), min_size=2, max_size=3).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=2, max_size=3).map(" ".join),
    st.text(max_size=15),
)
PATHS = st.one_of(
    st.just("src/tool/model.py"),
    st.sampled_from(["src/tool/config.py", "src/tool", "README.md", ".gitignore", "src/tool/none.py", "upstreams/x"]),
    st.sampled_from(
        ["", ".", "..", "../../patches/tool/speed.py", "/etc/hosts", ".git/config", ".GIT/x", "a\0b", "-x"]
    ),
    st.sampled_from(
        ["src/../../x", "src\\tool", "C:/x", "src//tool/model.py", "./src/tool/model.py", "a\n", "x" * 300]
    ),
    WORDS,
)
DEFINITIONS = st.one_of(
    st.sampled_from(["load", "Model", "Model.forward", None, "", ".", "load.", "Arguments", "Model.none", "a b"]), WORDS
)


GOOD_PATHS = st.sampled_from(
    ["src/tool/model.py"] * 4 + ["src/tool/config.py", "src/tool/train.py", "src/tool/data.py"]
)
GOOD_DEFINITIONS = st.sampled_from(["load", "Model", "Model.forward", None, "Arguments", "train", "rows", "halve"])
GOOD_ANCHORS = st.sampled_from(
    [
        "return model",
        "return $x",
        "$x = $y",
        "model = ...",
        "self.size = size",
        "loss = $m.forward(step)",
        "$f(...)",
        "Model($a)",
        "math.sqrt(...)",
        "$x",
        "$x * $y",
        "$x / 2",
        "names = []",
        "names.append(line)",
        "pass",
        "import math",
        "for line in open(path): ...",
        "$x.ready = True",
        "TABLE = rows",
        "True",
        "2",
        "model",
        "size: int = 4",
    ]
)
GOOD_ADDS = st.sampled_from(
    [
        "x()",
        "x = 1",
        "return 1",
        "raise $x",
        "pass",
        "if x:\n    pass",
        "$x",
        "$x = $y",
        "k=1",
        "size=2",
        "'k': 1",
        "**k",
        "import os",
        "from .a import b",
        "x: int = 1",
        "size: int = 5",
        "def f():\n    return 1",
        "yield 1",
        "await x",
        "*a",
        "with x as y:\n    pass",
        "break",
        "global model",
        "model = None",
        "class A:\n    pass",
        '"""\ntext\n"""',
        "self=1",
    ]
)


def sound() -> st.SearchStrategy[tuple[str, str | None, list[str]]]:
    """Edits that are well formed, and as a rule mean nothing where they are."""
    anchored = st.sampled_from([("after", "add"), ("before", "add"), ("replace", "with_"), ("add_keyword", "add")])
    call = st.one_of(
        st.builds(lambda verb, a, b: f"{verb[0]}({a!r}, {verb[1]}={b!r}, why='w')", anchored, GOOD_ANCHORS, GOOD_ADDS),
        st.builds(
            lambda verb, a: f"{verb}({a!r}, why='w')",
            st.sampled_from(["add_import", "add_field", "add_base", "add_parameter"]),
            GOOD_ADDS,
        ),
    )
    return st.tuples(GOOD_PATHS, GOOD_DEFINITIONS, st.lists(call, min_size=1, max_size=2))


def calls() -> st.SearchStrategy[str]:
    """One edit as text: a verb, and in the place of every argument something of any kind."""
    value = st.one_of(
        TEXTS.map(repr), TEXTS.map(repr), TEXTS.map(repr), st.sampled_from(["None", "1", "b'x'", "[]", "object()"])
    )
    why = st.sampled_from(["'w'", "'w'", "'w'", "'w'", "''", "None", "1"])
    times = st.sampled_from(["", "", "", ", times=2", ", times=0", ", times='1'", ", times=10**30", ", times=True"])
    anchored = st.sampled_from([("after", "add"), ("before", "add"), ("replace", "with_"), ("add_keyword", "add")])
    return st.one_of(
        st.builds(
            lambda verb, a, b, w, t: f"{verb[0]}({a}, {verb[1]}={b}, why={w}{t})", anchored, value, value, why, times
        ),
        st.builds(lambda a, b, w, t: f"into_dict({a}, add={b}, why={w}{t})", value, value, why, times),
        st.builds(
            lambda verb, a, w: f"{verb}({a}, why={w})",
            st.sampled_from(["add_import", "add_field", "add_base", "add_parameter"]),
            value,
            why,
        ),
        st.builds(
            lambda a, b: f"either(after({a}, add='x()', why='w'), before({b}, add='x()', why='w'))", value, value
        ),
    )
