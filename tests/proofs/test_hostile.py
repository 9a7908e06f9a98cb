"""Fuzzed locks, packs and overlays: no traceback reaches the user, nothing is written outside of the checkouts."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proofs.counts import TRIED
from tests.proofs.disk import Entry, put_back, take
from tests.proofs.hostile import DEFINITIONS, PATHS, TEXTS, calls, locks, sound
from tests.standins.packs import SPEED
from tests.standins.project import Project
from tests.standins.upstream import TOOL, Pin


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


@fuzz(300)
@given(data=st.data())
def test_a_fuzzed_lock(room: Room, data: st.DataObject) -> None:
    project = room.anew()
    lock = data.draw(locks((project.root / "upstream.lock").read_bytes()))
    project.write("upstream.lock", lock)
    room.try_all("apply", data.draw(st.sampled_from(["status", "check", "diff", "revert", "adopt", "doctor"])))


# ------------------------------------------------------------------ packs and patterns

HEAD = """
from graft.pack import *

PACK = Pack(
    upstream="tool", name="speed", why="w",
"""


@fuzz(500)
@given(
    places=st.one_of(
        st.lists(sound(), min_size=1, max_size=2),
        st.lists(sound(), min_size=1, max_size=1),
        st.lists(st.tuples(PATHS, DEFINITIONS, st.lists(calls(), min_size=1, max_size=2)), min_size=1, max_size=2),
    ),
    condition=st.one_of(st.none(), st.none(), st.none(), st.tuples(PATHS, DEFINITIONS, TEXTS)),
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
