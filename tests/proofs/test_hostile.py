"""Hostile input: no traceback, nothing written outside of the checkouts, and none of an upstream's code run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    what=st.sampled_from(["file", "link", "link out", "folder", "locked"]),
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
        else:
            file.write_bytes(b"x = 1\n")
    wanted = f"    overlays={[made, *overlays]!r}, common={common!r},\n"
    project.write("patches/tool/speed.py", _utf8(f"{HEAD}{wanted})\n"))
    if what == "locked":
        (project.at("tool") / made).mkdir(exist_ok=True)
        (project.at("tool") / made / "hooks.py").symlink_to(room.around / "secret")
    room.try_all("apply", "revert")


def test_an_overlay_that_is_a_pipe_is_not_waited_for(applied: Project) -> None:
    """Found by the fuzz: to read a pipe that nobody writes to never ends."""
    os.mkfifo(applied.root / "overlays/tool/src/tool/speed/pipe.py")
    child = applied.spawn("apply", "--offline", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        out, _ = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 2, out
    assert b"pipe.py" in out
    assert b"Traceback" not in out


def test_the_fuzz_met_every_end(room: Room) -> None:
    """What the fuzz says of refusals is empty where nothing is refused, and the other way round."""
    if sum(room.codes.values()) < 1000:
        pytest.skip("the fuzz has not been run whole")
    assert room.codes[0] > 50
    assert room.codes[1] > 50
    assert room.codes[2] > 300


# ------------------------------------------------------------------ an upstream's own code

TRAPS = ("setup.py", "conftest.py", "sitecustomize.py", "usercustomize.py", "libcst.py", "graft/__init__.py", "json.py")
HOOKS = (
    "post-checkout",
    "post-merge",
    "pre-commit",
    "post-index-change",
    "reference-transaction",
    "fsmonitor-watchman",
)


@dataclass
class Trapped:
    """A project whose upstream leaves a mark wherever any of its code is run."""

    project: Project
    marks: Path

    @property
    def sprung(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def trapped(tmp_path: Path) -> Trapped:
    marks = tmp_path / "marks"
    marks.mkdir()
    python = "".join(f"open({str(marks)!r} + '/python', 'a').write(__file__)\n")
    files = dict.fromkeys(TRAPS, python.encode())
    files |= {f"src/tool/{name}": python.encode() for name in ("__init__.py", "setup.py")}
    files |= {f"hooks/{name}": f"#!/bin/sh\ntouch {marks}/tree-hook\n".encode() for name in HOOKS}
    files["src/tool/model.py"] = python.encode() + TOOL["src/tool/model.py"]
    files[".gitattributes"] = b"* filter=evil diff=evil merge=evil\n*.py working-tree-encoding=UTF-8\n"
    files[".gitmodules"] = b'[submodule "x"]\n\tpath = x\n\turl = ../x\n'
    files["pyproject.toml"] = b'[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    place = tmp_path / "tool"
    make_upstream(place, {**TOOL, **files})
    sh("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},x", cwd=place)
    sh("commit", "-qm", "a submodule", cwd=place)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    commit_files(place, {"README.md": b"later\n"})
    sh("tag", "v2", cwd=place)
    other = make_upstream(tmp_path / "other", {"other/core.py": b"def start(name):\n    return name\n"})
    project = Project.make(tmp_path / "project", {"tool": Pin(place, commit, tree), "other": other})
    sh("add", "upstream.lock", cwd=project.root)
    sh("commit", "-qm", "start", cwd=project.root)
    return Trapped(project, marks)


def arm(trapped: Trapped) -> None:
    """What no upstream can send, but may lie in a checkout that is there: hooks, a watcher, filters, helpers."""
    checkout, marks = trapped.project.at("tool"), trapped.marks
    script = trapped.marks.parent / "trap"
    script.write_text(f'#!/bin/sh\ntouch "{marks}/$1"\ncat\n')
    script.chmod(0o755)
    for key, value in {
        "core.fsmonitor": f"{script} fsmonitor",
        "core.pager": f"{script} pager",
        "core.sshCommand": f"{script} ssh",
        "core.askPass": str(script),
        "diff.external": f"{script} external",
        "diff.evil.textconv": f"{script} textconv",
        "diff.evil.command": f"{script} diff",
        "merge.evil.driver": f"{script} merge",
        "filter.evil.clean": f"{script} clean",
        "filter.evil.smudge": f"{script} smudge",
        "credential.helper": f"!{script} credential",
        "protocol.ext.allow": "always",
        "submodule.recurse": "true",
        "submodule.x.url": f"ext::{script} submodule",
        "submodule.x.active": "true",
        "uploadpack.packObjectsHook": f"{script} upload",
    }.items():
        sh("config", key, value, cwd=checkout)
    hooks = trapped.project.gitdir("tool") / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        (hooks / name).write_text(f'#!/bin/sh\ntouch "{marks}/hook"\n')
        (hooks / name).chmod(0o755)
    shutil.rmtree(marks)
    marks.mkdir()


EVERY = [
    ("apply",),
    ("status",),
    ("check",),
    ("diff",),
    ("adopt", "tool"),
    ("apply", "--pack", "speed"),
    ("apply", "--link"),
    ("apply",),
    ("upgrade", "tool", "--to", "v2", "--dry-run"),
    ("upgrade", "tool", "--to", "v2"),
    ("revert",),
    ("doctor",),
]


@pytest.mark.parametrize("armed", [False, True], ids=["as fetched", "armed"])
def test_no_code_of_an_upstream_is_run(trapped: Trapped, armed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trapped.project.ok("apply")
    assert trapped.sprung == []
    checkout = trapped.project.at("tool")
    assert (checkout / "src/tool/speed/hooks.py").is_file()
    if armed:
        arm(trapped)
    # As from inside the checkout, whose modules carry the names of the engine's own.
    monkeypatch.chdir(checkout)
    for arguments in EVERY:
        if arguments[0] == "adopt":
            trapped.project.edit("tool/src/tool/speed/hooks.py", b"True", b"1")
        ran = trapped.project.run(*arguments)
        assert ran.code == 0 or arguments == ("doctor",), (arguments, ran.said)
        assert trapped.sprung == [], arguments
    child = trapped.project.spawn("status", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0, out
    assert trapped.sprung == []


@pytest.mark.parametrize("line", ["url = ext::sh -c touch% MARK", "url = -uMARK", "update = !touch MARK"])
def test_an_upstream_whose_submodule_is_a_command_is_not_taken(trapped: Trapped, line: str) -> None:
    place = trapped.project.pins["tool"].place
    module = f'[submodule "x"]\n\tpath = x\n\turl = ../x\n\t{line}\n'.replace("MARK", str(trapped.marks / "mark"))
    commit = commit_files(place, {".gitmodules": module.encode()})
    trapped.project.pins["tool"] = Pin(place, commit, sh("rev-parse", "HEAD^{tree}", cwd=place))
    trapped.project.lock(tool=["speed", "notes"], other=["tiny"])
    ran = trapped.project.run("apply", "tool")
    assert trapped.sprung == []
    if line.startswith("url = ext"):  # no fault of the repository's as git sees it: only never followed
        assert ran.code == 0, ran.said
        assert not list(trapped.project.at("tool").glob("x/*"))
    else:
        assert ran.code == 3, ran.said
        assert not trapped.project.at("tool").exists()


def test_the_traps_work(trapped: Trapped) -> None:
    """What the proof above says is empty if nothing could ever spring."""
    trapped.project.ok("apply")
    arm(trapped)
    checkout = trapped.project.at("tool")
    (checkout / "README.md").write_bytes(b"changed\n")
    sh("config", "core.hooksPath", str(trapped.project.gitdir("tool") / "hooks"), cwd=checkout)
    for arguments in (["status"], ["diff"], ["add", "README.md"], ["checkout", "-f", "HEAD", "--", "README.md"]):
        subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, check=False)
    subprocess.run([sys.executable, "-c", "import setup"], cwd=checkout, check=True)
    assert {"clean", "fsmonitor", "hook", "python", "smudge"} <= set(trapped.sprung)
