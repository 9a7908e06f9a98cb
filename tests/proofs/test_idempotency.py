"""Apply twice writes nothing; the order of packs makes no difference; apply then revert gives the pin's tree id."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from graft.lock import Lock
from tests.proofs.counts import TRIED
from tests.proofs.disk import take
from tests.proofs.grafted import NEW, SWAP
from tests.proofs.recorder import recorded
from tests.standins.later import go_on
from tests.standins.packs import FILES
from tests.standins.project import REPOSITORY, SOURCE, Project, stamps
from tests.standins.upstream import Pin, make_upstream, sh

REAL = [upstream for upstream in Lock.load(REPOSITORY).upstreams if upstream.packs]


@pytest.fixture(scope="module")
def standin(make_project: Callable[[], Project]) -> Project:
    project = make_project()
    project.write("patches/tool/swap.py", SWAP)
    project.lock(tool=["speed", "notes", "swap"], other=["tiny"])
    project.ok("apply")
    return project


@pytest.fixture(scope="module", params=[upstream.name for upstream in REAL])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project of its own with the real lock, packs and overlays, and a fresh checkout of one upstream."""
    root = tmp_path_factory.mktemp("real") / "project"
    root.mkdir()
    for name in ("patches", "overlays"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "upstream.lock", root)
    sh("init", "-q", "-b", "main", cwd=root)
    lock = Lock.load(root)
    project = Project(root, {one.name: Pin(root, one.commit, one.tree) for one in lock.upstreams})
    ran = project.run("apply", request.param)
    if ran.code == 3:
        pytest.skip(f"{request.param} cannot be reached: {ran.out.strip().splitlines()[-1]}")
    assert ran.code == 0, ran.said
    return project, request.param


def applied_twice(project: Project, name: str) -> None:
    project.ok("apply", name)
    before = stamps(project.at(name)), stamps(project.gitdir(name) / "graft" / "blobs")
    with recorded(project.root / "patches") as calls:
        report = project.ok("apply", name, "--json").json["upstreams"][name]
    assert calls.calls == 0
    assert report["wrote"] == []
    assert (stamps(project.at(name)), stamps(project.gitdir(name) / "graft" / "blobs")) == before


def orders(packs: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every order of every subset; of more than three packs each subset forwards, backwards and from its middle."""
    for size in range(1, len(packs) + 1):
        for some in itertools.combinations(sorted(packs), size):
            if size <= 3:
                yield from itertools.permutations(some)
            else:
                yield from (some, some[::-1], some[size // 2 :] + some[: size // 2])


def any_order(project: Project, name: str) -> None:
    packs = next(one.packs for one in Lock.load(project.root).upstreams if one.name == name)
    trees: dict[frozenset[str], str] = {}
    for order in orders(packs):
        project.ok("revert", name)
        assert project.is_pristine(name)
        project.ok("apply", name, *(word for pack in order for word in ("--pack", pack)))
        trees.setdefault(frozenset(order), project.tree(name))
        assert project.tree(name) == trees[frozenset(order)], order
        project.ok("revert", name)
        for pack in order:  # and one after another
            project.ok("apply", name, "--pack", pack)
        assert project.tree(name) == trees[frozenset(order)], order
        TRIED["order"] += 1
    assert len(set(trees.values())) == len(trees) == 2 ** len(packs) - 1
    whole = frozenset(packs)
    project.ok("apply", name)
    assert project.tree(name) == trees[whole]
    for left in map(frozenset, itertools.combinations(sorted(packs), len(packs) - 1)):
        (out,) = whole - left
        project.ok("revert", name, "--pack", out)
        assert project.tree(name) == trees.get(left, project.pins[name].tree)
        project.ok("apply", name)


def test_stand_in_twice(standin: Project) -> None:
    for name in ("tool", "other"):
        applied_twice(standin, name)


def test_stand_in_in_any_order(standin: Project) -> None:
    for name in ("tool", "other"):
        any_order(standin, name)


def test_stand_in_there_and_back(standin: Project) -> None:
    for name in ("tool", "other"):
        standin.ok("apply", name)
        assert not standin.is_pristine(name)
        standin.ok("revert", name)
        assert standin.is_pristine(name)


@pytest.mark.upstream
def test_real_packs_twice(real: tuple[Project, str]) -> None:
    applied_twice(*real)


@pytest.mark.upstream
def test_real_packs_in_any_order(real: tuple[Project, str]) -> None:
    any_order(*real)


@pytest.mark.upstream
def test_real_packs_there_and_back(real: tuple[Project, str]) -> None:
    project, name = real
    project.ok("apply", name)
    assert not project.is_pristine(name)
    project.ok("revert", name)
    assert project.is_pristine(name)


def test_what_an_upgrade_made_is_taken_away_by_revert(make_project: Callable[[], Project], tmp_path: Path) -> None:
    """An upgrade is a set of the project's repository, and revert one of the checkout's: folders of ours stayed."""
    project = go_on(make_project(), tmp_path / "upstream")
    project.ok("revert", "tool")
    project.ok("upgrade", "tool", "--to", "v2")
    assert project.at("tool/src/tool/speed").is_dir()
    project.ok("revert", "tool")
    place = project.pins["tool"].place
    project.pins["tool"] = Pin(place, *sh("rev-parse", "v2^{commit}", "v2^{tree}", cwd=place).split())
    assert project.is_pristine("tool")


def test_newer_packs_and_back_again(make_project: Callable[[], Project]) -> None:
    project = make_project()
    first = project.tree()
    kept = {name: (project.root / name).read_bytes() for name in NEW if name in FILES}
    for name in kept:
        project.write(name, NEW[name])
    project.ok("apply", "tool")
    assert project.tree() != first
    applied_twice(project, "tool")
    for name, content in kept.items():
        project.write(name, content)
    project.ok("apply", "tool")
    assert project.tree() == first
    project.ok("revert", "tool")
    assert project.is_pristine()


# ------------------------------------------------------------------ files of every kind

PLAIN, GRAFTED = "def f(x):\n    y = x\n    return y\n", "def f(x):\n    y = x\n    z = y\n    return y\n"


def _kinds() -> dict[str, tuple[bytes, bytes]]:
    """Every kind of file: as upstream has it, and as it is to be with one line more."""
    plain, grafted = PLAIN.encode(), GRAFTED.encode()
    changes: dict[str, Callable[[bytes], bytes]] = {
        "lf": lambda text: text,
        "crlf": lambda text: text.replace(b"\n", b"\r\n"),
        "open_end": lambda text: text[:-1],
        "crlf_open_end": lambda text: text.replace(b"\n", b"\r\n")[:-2],
        "tabs": lambda text: text.replace(b"    ", b"\t"),
        "crlf_tabs": lambda text: text.replace(b"    ", b"\t").replace(b"\n", b"\r\n"),
        "two": lambda text: text.replace(b"    ", b"  "),
        "accents": lambda text: "# \u00e9\u4e2d\U0001f642\n".encode() + text + "# \u00fc\n".encode(),
        "utf8_said": lambda text: b"# -*- coding: utf-8 -*-\n" + text,
        "form_feed": lambda text: b"\x0c\n" + text + b"\x0c\n",
        "spaces": lambda text: b"\n\n   \n" + text + b"\n\n  \n\t\n",
        "separators": lambda text: text + "s = '\u2028\x85\x1c'\n".encode(),
        "nested": lambda text: b"class A:\n" + b"".join(b"    " + line for line in text.splitlines(keepends=True)),
        "backslash": lambda text: text + b"a = 1 + \\\n    2\n",
        "script": lambda text: b"#!/usr/bin/env python\n" + text,
    }
    return {name: (change(plain), change(grafted)) for name, change in changes.items()}


KINDS = _kinds()
REFUSED = {
    "latin": (b"# \xe9\n" + PLAIN.encode(), "not UTF-8"),
    "latin_said": (b"# coding: latin-1\n" + PLAIN.encode(), "latin-1"),
    "mark": (b"\xef\xbb\xbf" + PLAIN.encode(), "byte order mark"),
    "cr": (PLAIN.replace("\n", "\r").encode(), "lone carriage return"),
    "null": (PLAIN.encode() + b"\0", "not Python"),
}


def kinds_pack(names: Sequence[str]) -> str:
    places = "".join(
        f'        In("{name}.py", "{"A.f" if name == "nested" else "f"}", after("y = x", add="z = y", why="w")),\n'
        for name in names
    )
    head = "from graft.pack import In, Pack, after\n\nPACK = Pack(\n"
    return f'{head}    upstream="odd",\n    name="kinds",\n    why="w",\n    edits=[\n{places}    ],\n)\n'


@pytest.fixture
def odd(tmp_path: Path) -> Project:
    """A project whose one upstream has a file of every kind, one of them executable, and a link to another."""
    files = {f"{name}.py": plain for name, (plain, _) in KINDS.items()}
    files |= {f"{name}.py": plain for name, (plain, _) in REFUSED.items()}
    place = tmp_path / "odd"
    make_upstream(place, files)
    (place / "script.py").chmod(0o755)
    (place / "link.py").symlink_to("lf.py")
    sh("add", "-A", cwd=place)
    sh("commit", "-qm", "kinds", cwd=place)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    project = Project(tmp_path / "project", {"odd": Pin(place, commit, tree)})
    project.write("patches/odd/kinds.py", kinds_pack(sorted(KINDS)))
    sh("init", "-q", "-b", "main", cwd=project.root)
    project.lock(odd=["kinds"])
    return project


def test_files_of_every_kind(odd: Project) -> None:
    odd.ok("apply")
    for name, (_, grafted) in KINDS.items():
        assert odd.read(f"odd/{name}.py") == grafted, name
    for name, (plain, _) in REFUSED.items():
        assert odd.read(f"odd/{name}.py") == plain, name
    assert odd.at("odd/script.py").stat().st_mode & 0o777 == 0o755
    assert odd.at("odd/link.py").is_symlink()
    applied_twice(odd, "odd")
    odd.ok("revert")
    assert odd.is_pristine("odd")


@pytest.mark.parametrize("name", [*REFUSED, "link"])
def test_what_cannot_be_edited_is_refused_by_name(odd: Project, name: str) -> None:
    odd.ok("apply")
    odd.ok("revert")
    odd.write("patches/odd/kinds.py", kinds_pack(["crlf", name]))
    before = take(odd.at("odd"))
    ran = odd.run("apply")
    assert ran.code == 1
    assert f"{name}.py" in ran.out
    assert (REFUSED[name][1] if name in REFUSED else "symbolic link") in ran.out
    assert take(odd.at("odd")) == before


def test_a_read_only_file_is_refused_by_name_and_once_grafted_stays_read_only(odd: Project) -> None:
    odd.ok("apply")
    odd.ok("revert")
    file = odd.at("odd/crlf.py")
    file.chmod(0o444)
    before = take(odd.at("odd"))
    ran = odd.run("apply")
    assert ran.code == 1
    assert "crlf.py" in ran.out
    assert "read-only" in ran.out
    assert take(odd.at("odd")) == before
    file.chmod(0o644)
    odd.ok("apply")
    file.chmod(0o444)
    applied_twice(odd, "odd")
    odd.write("patches/odd/kinds.py", kinds_pack(sorted(KINDS)).replace("z = y", "z = x"))
    odd.ok("apply")
    assert file.read_bytes() == KINDS["crlf"][1].replace(b"z = y", b"z = x")
    assert file.stat().st_mode & 0o777 == 0o444
    odd.ok("revert")
    assert file.stat().st_mode & 0o777 == 0o444
    assert odd.is_pristine("odd")


def test_an_overlay_of_any_bytes_lands_as_it_is(applied: Project) -> None:
    content = bytes(range(256)) * 3
    applied.write(SOURCE, content)
    applied.write("overlays/tool/src/tool/speed/run", b"#!/bin/sh\r\n").chmod(0o755)
    applied.ok("apply", "tool")
    assert applied.read("tool/src/tool/speed/hooks.py") == content
    assert applied.at("tool/src/tool/speed/run").stat().st_mode & 0o777 == 0o755
    applied_twice(applied, "tool")
    applied.ok("revert")
    assert applied.is_pristine()
