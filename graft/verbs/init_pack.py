"""``apply.py init-pack UPSTREAM PACK --in FILE:DEFINITION``: the first files of a pack, and the pin of a new upstream.

What it writes works at once: the seam calls an overlay function that does nothing, so the upstream runs as before, and
its author begins from there.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import libcst as cst

from graft import flock
from graft.actions import Project
from graft.candidates import first_line
from graft.errors import BadInput, Exit, GraftError
from graft.fetch import fetch, published
from graft.git import git, git_dir, git_text, read_blob, tree_id
from graft.lock import FILE, Upstream
from graft.pack import check_path
from graft.source import Definition, Source, block_statements
from graft.transaction import Write, commit, recover
from graft.ui import Screen
from graft.upgrade import resolve
from graft.verbs.words import add_common

NAME = "init-pack"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LICENSES = (("Apache License", "Apache-2.0"), ("MIT License", "MIT"), ("BSD 3-Clause", "BSD-3-Clause"))

_PACK = """\
from graft.pack import In, Pack, add_import, before, ensure

PACK = Pack(
    upstream="{upstream}",
    name="{pack}",
    why="say in a sentence what the method is",
    edits=[
        In(
            "{path}",
            "{definition}",
            add_import("from {module} import attach", why="the seam calls it"),
            # An anchor is the code it means: $x binds any expression, ... stands for any further arguments.
            before({anchor}, add="attach()", why="say why it must be here"),
        ),
    ],
    overlays=["{overlay}"],
    ensures=[ensure("{path}", "{definition}", "attach(...)", why="the seam is in the function meant")],
)
"""

_OVERLAY = '''\
"""Say what the method is, and the paper it comes from. All that is more than a line lives in this package."""


def attach() -> None:
    """Called by the seam in ``{path}``; it does nothing yet, so the upstream runs as before."""
'''


@dataclass(frozen=True)
class Place:
    """Where the first seam goes: a function of the upstream, and the statement above which it stands."""

    path: str
    definition: str
    anchor: str


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = add_common(verbs, NAME, "write the first files of a pack; with --url, pin a new upstream too")
    verb.add_argument("upstream", metavar="UPSTREAM", help="a name as in upstream.lock, or a new one with --url")
    verb.add_argument("pack", metavar="PACK", help="the pack's name, as in my_method")
    where = "where the first seam goes, as in src/a.py:Class.method"
    verb.add_argument("--in", dest="place", required=True, metavar="FILE:DEFINITION", help=where)
    verb.add_argument("--url", help="the repository of an upstream that the lock does not have")
    verb.add_argument(
        "--ref", default="HEAD", help="with --url: the branch or tag to pin (default: its default branch)"
    )
    verb.add_argument("--python", default=">=3.10", help="with --url: the interpreters that it runs on")


def run(project: Project, options: argparse.Namespace, screen: Screen) -> int:
    for name in (options.upstream, options.pack):
        if not _PLAIN.fullmatch(name):
            raise BadInput(f"{name!r} is no plain name", where=NAME, remedy="letters, digits, _ . -")
    known = {name.casefold(): name for name in project.lock.names}
    own = known.get(options.upstream.casefold())
    if own is None and not options.url:
        raise BadInput(
            f"no upstream is called {options.upstream!r}",
            where=FILE,
            remedy="pin a new one with --url, or name one of: " + ", ".join(project.lock.names),
        )
    with tempfile.TemporaryDirectory() as folder:
        if own is None:
            upstream, room = _look_at(options, Path(folder), screen)
        else:
            (upstream,) = project.lock.select([own])
            room = project.root / upstream.path
            if not (room / ".git").exists():
                raise GraftError("there is no checkout yet", where=own, remedy=f"python apply.py {own}")
        place = _find(upstream, room, options.place)
        package = read_blob(room, f"{upstream.commit}:{PurePosixPath(place.path).parent / '__init__.py'}") is not None
    writes = _files(project, upstream, options.pack, place, package=package)
    lock = project.root / FILE
    old = lock.read_bytes()
    writes.append(Write(FILE, _locked(old, upstream, options.pack, fresh=own is None), expect=old))
    if own is None:
        writes.append(_module(project, upstream))
    _write(project, writes)
    if own is None:
        git(["update-index", "--add", "--cacheinfo", f"160000,{upstream.commit},{upstream.path}"], cwd=project.root)
    screen.settle()
    wrote = [write.path for write in writes]
    if options.json:
        print(json.dumps({"ok": True, "wrote": wrote}))
    else:
        screen.say("wrote " + ", ".join(wrote))
        screen.say(
            f"next: python apply.py {upstream.name}, python apply.py diff {upstream.name}, then write the method"
        )
    return Exit.OK


def _look_at(options: argparse.Namespace, folder: Path, screen: Screen) -> tuple[Upstream, Path]:
    """A new upstream's pin, read from its repository; the objects are in a temporary repository."""
    git(["init", "-q", "--template=", str(folder)], cwd=folder)
    name = options.upstream
    asked = Upstream(name, options.url, options.ref, "", "", "", f"upstreams/{name}", options.python, (), None)
    remote = published(asked, folder)
    tried: list[str] = []
    found = resolve(options.ref, remote, folder, tried)
    if found is None:
        raise GraftError("; ".join(tried), where=options.url, remedy="check --url and --ref")
    ref = options.ref
    if ref == "HEAD":
        head = git_text(["ls-remote", "--symref", "--", remote.address, "HEAD"], cwd=folder).split("\n")[0]
        ref = head.split("\t")[0].removeprefix("ref: refs/heads/")
    pinned = Upstream(name, options.url, ref, found, "", "", asked.path, options.python, (), None)
    fetch(pinned, folder, remote, screen.progress)
    licence = read_blob(folder, f"{found}:LICENSE") or b""
    spdx = next((spdx for words, spdx in _LICENSES if words.encode() in licence), "LicenseRef-unknown")
    return Upstream(
        name, options.url, ref, found, tree_id(folder, found), spdx, asked.path, options.python, (), None
    ), folder


def _find(upstream: Upstream, room: Path, asked: str) -> Place:
    """The function that ``FILE:DEFINITION`` names, and its last statement that is unique there."""
    path, _, definition = asked.rpartition(":")
    path = check_path(path, where="--in")
    content = read_blob(room, f"{upstream.commit}:{path}")
    if content is None:
        raise BadInput(
            f"there is no file {path} at {upstream.commit[:10]}", where="--in", remedy="name one as git shows it"
        )
    scopes = Source(path, content).definitions(definition)
    if len(scopes) != 1 or not isinstance(scopes[0], cst.FunctionDef):
        raise BadInput(
            f"{definition!r} is not one function there", where=f"--in {path}", remedy="name it as Class.method"
        )
    return Place(path, definition, _anchor(scopes[0], path))


def _anchor(scope: Definition, path: str) -> str:
    """The last one-line statement that stands once in the function; the author will choose a better one."""
    lines = [
        first_line(statement)
        for statement in block_statements(scope.body)
        if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1
    ]
    texts = [text.split("#")[0].strip() if "#" in text and '"' not in text else text for text in lines]
    unique = [text for text in texts if texts.count(text) == 1 and "\n" not in text and not text.startswith(('"', "'"))]
    if not unique:
        raise GraftError("it holds no plain statement to anchor at", where=path, remedy="name another function")
    return unique[-1]


def _files(project: Project, upstream: Upstream, pack: str, place: Place, *, package: bool) -> list[Write]:
    """The pack and its overlay; beside a script, whose folder is no package, the overlay is imported by plain name."""
    name = pack.replace("-", "_").replace(".", "_")
    overlay = (PurePosixPath(place.path).parent / name).as_posix()
    values = {
        "upstream": upstream.name,
        "pack": pack,
        "path": place.path,
        "definition": place.definition,
        "anchor": json.dumps(place.anchor, ensure_ascii=False),
        "overlay": overlay,
        "module": f".{name}" if package else name,
    }
    texts = {
        f"patches/{upstream.name}/{pack}.py": _PACK.format(**values),
        f"overlays/{upstream.name}/{overlay}/__init__.py": _OVERLAY.format(**values),
    }
    for path in texts:
        if (project.root / path).exists():
            raise BadInput("is there already", where=path, remedy="choose another name for the pack")
    return [Write(path, text.encode(), expect=None) for path, text in texts.items()]


def _locked(old: bytes, upstream: Upstream, pack: str, *, fresh: bool) -> bytes:
    if fresh:
        values = {key: getattr(upstream, key) for key in ("url", "ref", "commit", "tree", "license", "path", "python")}
        table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        return old.rstrip(b"\n") + f'\n\n[upstream.{upstream.name}]\n{table}packs = ["{pack}"]\n'.encode()
    head = old.index(f"[upstream.{upstream.name}]".encode())
    line = re.compile(rb"^packs\s*=\s*\[[^\]]*\]", re.MULTILINE).search(old, head)
    if line is None:
        raise BadInput(
            "packs is not on a line of its own", where=f"{FILE} [upstream.{upstream.name}]", remedy="write it so"
        )
    names = json.dumps([*upstream.packs, pack]).encode()
    return old[: line.start()] + b"packs = " + names + old[line.end() :]


def _module(project: Project, upstream: Upstream) -> Write:
    file = project.root / ".gitmodules"
    old = file.read_bytes() if file.is_file() else None
    text = (
        f'[submodule "{upstream.path}"]\n\tpath = {upstream.path}\n\turl = {upstream.url}\n'
        "\tshallow = true\n\tignore = dirty\n"
    )
    return Write(".gitmodules", (old or b"") + text.encode(), expect=old)


def _write(project: Project, writes: list[Write]) -> None:
    home = git_dir(project.root)
    with flock.held(home):
        recover(project.root, home)
        commit(project.root, home, writes)
