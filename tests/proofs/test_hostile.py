"""Hostile input: no traceback, nothing written outside of the checkouts, and none of an upstream's code run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft import git
from tests.proofs.counts import TRIED
from tests.proofs.disk import Entry, put_back, take
from tests.standins.packs import SPEED
from tests.standins.project import Project
from tests.standins.upstream import TOOL, Pin, commit_files, make_upstream, sh


def fuzz(cases: int) -> settings:
    # The project is put back by hand at the start of every case.
    return settings(max_examples=cases, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


class Room:
    """A project in the middle of things that are not its own, and all of it put back between the cases."""

    def __init__(self, project: Project, around: Path) -> None:
        self.project, self.around = project, around
        self.kept = take(around)
        self.codes: Counter[int] = Counter()

    def anew(self) -> Project:
        put_back(self.around, self.kept)
        return self.project

    def outside(self) -> dict[str, Entry]:
        """Everything but the checkouts, and what git and graft keep of them."""
        inside = self.project.root.relative_to(self.around).as_posix()
        own = (f"{inside}/upstreams/", f"{inside}/.git/")
        return {name: entry for name, entry in take(self.around).items() if not f"{name}/".startswith(own)}

    def try_all(self, *verbs: str) -> None:
        """Runs the verbs: each ends in an exit code and words, and nothing outside is another than before."""
        before = self.outside()
        for verb in verbs:
            arguments = ("apply", "--offline") if verb == "apply" else (verb,)
            ran = self.project.run(*arguments)
            self.codes[ran.code] += 1
            assert ran.code in (0, 1, 2, 3, 4), ran.said
            assert "Traceback" not in ran.said
            if ran.code in (1, 2, 3):
                assert re.search(r"\berror\b", ran.said), ran.said
            assert self.outside() == before
        TRIED["fuzz"] += 1


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, pins: dict[str, Pin]) -> Room:
    around = tmp_path_factory.mktemp("around")
    (around / "secret").write_bytes(b"not graft's\n")
    project = Project.make(around / "home" / "project", pins)
    (around / "home" / "project-2").mkdir()
    project.ok("apply")
    project.ok("revert")
    return Room(project, around)


# ------------------------------------------------------------------ the lock

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


@fuzz(300)
@given(data=st.data())
def test_a_fuzzed_lock(room: Room, data: st.DataObject) -> None:
    project = room.anew()
    lock = data.draw(locks((project.root / "upstream.lock").read_bytes()))
    project.write("upstream.lock", lock)
    room.try_all("apply", data.draw(st.sampled_from(["status", "check", "diff", "revert", "adopt", "doctor"])))


# ------------------------------------------------------------------ packs and patterns

PIECES = [
    "return model", "loss = $m.forward(step)", "$x", "$x = $y", "...", "$", "$1", "$$", "f(...)", "f(*, ...)", "lambda: $x",
    "def f(): ...", "class A: pass", "if $x:\n    pass", "x = ", "(", ")", "\'\'\'", "\\", "# c", "\t", "\n", ";", ":", "**$k",
    "*$a", "f'{$x}'", "yield", "await x", "async def f(): pass", "import a", "from . import b", "from a import *", "@d",
    "$x.$y", "$x($x)", "True", "None", "1", "0x", "1e999", "a if b else c", "[*$x]", "{**$x}", "x: int = 1", "y := 2", "\0",
    "\u202e", "\r", "\x0c", "match x:\n    case 1: pass", "return $x\nreturn $y", "k=1", "k=$x", "'k': 1", "x, y", "(" * 150,
    "Model(config.size)", "halve", "speed: bool = False", "import math", "a" * 5000, "-" * 400 + "x", "x." * 500 + "y",
]  # fmt: skip
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


HEAD = """
from graft.pack import *

PACK = Pack(
    upstream="tool", name="speed", why="w",
"""


@fuzz(350)
@given(
    places=st.lists(st.tuples(PATHS, DEFINITIONS, st.lists(calls(), min_size=1, max_size=2)), min_size=1, max_size=2),
    condition=st.one_of(st.none(), st.tuples(PATHS, DEFINITIONS, TEXTS)),
    verb=st.sampled_from(["status", "check", "diff", "apply", "revert"]),
)
def test_a_fuzzed_pack(
    room: Room,
    places: list[tuple[str, str | None, list[str]]],
    condition: tuple[str, str | None, str] | None,
    verb: str,
) -> None:
    project = room.anew()
    edits = "".join(f"        In({path!r}, {name!r}, {', '.join(own)}),\n" for path, name, own in places)
    ensures = "" if condition is None else "    ensures=[ensure({!r}, {!r}, {!r}, why='w')],\n".format(*condition)
    project.write("patches/tool/speed.py", _utf8(f"{HEAD}    edits=[\n{edits}    ],\n{ensures})\n"))
    room.try_all("apply", verb)
    compiles(project)


def compiles(project: Project) -> None:
    """Whatever a pack asks for: what is written is Python that compiles, and is taken out again to the last byte."""
    for path, content in TOOL.items():
        now = project.read(f"tool/{path}")
        if path.endswith(".py") and now != content:
            compile(now, path, "exec")
    ran = project.run("revert", "tool")
    assert ran.code == 0, ran.said
    assert {path: project.read(f"tool/{path}") for path in TOOL} == TOOL


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@fuzz(100)
@given(
    text=st.one_of(
        st.binary(max_size=60),
        st.tuples(st.integers(0, len(SPEED)), st.integers(0, 30), st.text(max_size=6)).map(
            lambda cut: _utf8(SPEED[: cut[0]] + cut[2] + SPEED[cut[0] + cut[1] :])
        ),
    )
)
def test_a_pack_file_with_any_bytes(room: Room, text: bytes) -> None:
    project = room.anew()
    project.write("patches/tool/speed.py", text)
    room.try_all("apply", "status")


@fuzz(150)
@given(
    overlays=st.lists(PATHS, max_size=2),
    common=st.dictionaries(PATHS, PATHS, max_size=1),
    names=st.lists(
        st.one_of(st.text(max_size=8), st.sampled_from(["a\n.py", "-rf", "\\x", "x.", "\u00e9.py", " "])), max_size=3
    ),
    what=st.sampled_from(["file", "link", "link out", "folder", "pipe", "locked"]),
)
def test_hostile_overlays(room: Room, overlays: list[str], common: dict[str, str], names: list[str], what: str) -> None:
    project = room.anew()
    made = "src/tool/speed"
    folder = project.root / "overlays/tool" / made
    for name in names:
        file = folder / name.replace("/", "_").replace("\0", "_")
        if name in ("", ".", "..") or len(os.fsencode(file.name.encode("utf-8", "replace").decode())) > 200:
            continue
        try:
            os.fsencode(file)
        except UnicodeEncodeError:
            continue
        if os.path.lexists(file):
            continue
        if what.startswith("link"):
            file.symlink_to(room.around / "secret" if what == "link out" else "hooks.py")
        elif what == "folder":
            file.mkdir()
        elif what == "pipe":
            os.mkfifo(file)
        else:
            file.write_bytes(b"x = 1\n")
    wanted = f"    overlays={[made, *overlays]!r}, common={common!r},\n"
    project.write("patches/tool/speed.py", _utf8(f"{HEAD}{wanted})\n"))
    if what == "locked":
        (project.at("tool") / made).mkdir(exist_ok=True)
        (project.at("tool") / made / "hooks.py").symlink_to(room.around / "secret")
    if what == "pipe" and names:
        for file in list(folder.iterdir()):
            if file.is_fifo():
                assert_no_wait(project)
                file.unlink()
        return
    room.try_all("apply", "revert")


def assert_no_wait(project: Project) -> None:
    """A pipe that nobody writes to would be waited for without end."""
    child = project.spawn("apply", "--offline", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = child.communicate(timeout=20)
    assert child.returncode in (1, 2), out
    assert b"Traceback" not in out


def test_the_fuzz_met_every_end(room: Room) -> None:
    """What the fuzz says of refusals is empty where nothing is refused, and the other way round."""
    if sum(room.codes.values()) < 1000:
        pytest.skip("the fuzz has not been run whole")
    assert room.codes[0] > 50
    assert room.codes[1] > 50
    assert room.codes[2] > 300
