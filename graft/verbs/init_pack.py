"""``apply.py init-pack UPSTREAM PACK --in FILE:DEFINITION``: the first files of a pack, and the pin of a new upstream.

What it writes works at once: the seam calls an overlay function that does nothing, so the upstream runs as before, and
its author begins from there. The pack is tried on the upstream's tree before anything is written, and all of it is
written in one transaction of the project's repository, the gitlink too.
"""

from __future__ import annotations

import argparse
import json
import keyword
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import libcst as cst

from graft import flock
from graft.actions import Project
from graft.branch import default_branch
from graft.candidates import first_line
from graft.errors import BadInput, Exit, GraftError, Unreachable
from graft.fetch import Remote, fetch, published
from graft.git import git, git_dir, git_text, has_commit, read_blob, read_blobs, tree_id
from graft.lock import FILE, Upstream, plain
from graft.locktext import with_pack, with_table
from graft.pack import Pack, check_path, load_pack
from graft.plan import load_packs
from graft.rewrite import rewrite
from graft.source import Definition, Source, block_statements
from graft.submodule import entry, gitlink, modules, recorded
from graft.transaction import Write, commit, recover
from graft.tree import CommitTree
from graft.ui import Screen
from graft.upgrade import resolve
from graft.verbs.words import add_common

NAME = "init-pack"
_LICENSES = (("Apache License", "Apache-2.0"), ("MIT License", "MIT"), ("BSD 3-Clause", "BSD-3-Clause"))
_UNKNOWN = "LicenseRef-unknown"
_NO_ID = "0" * 40

_PACK = """\
from graft.pack import In, Pack, add_import, before, ensure

PACK = Pack(
    upstream="{upstream}",
    name="{pack}",
    why="say in a sentence what the method is",
    edits=[
        In(
            {path},
            "{definition}",
            add_import("from {module} import {seam}", why="the seam calls it"),
            # An anchor is the code it means: $x binds any expression, ... stands for any further arguments.
            before({anchor}, add="{seam}()", why="say why it must be here"),
        ),
    ],
    overlays=[{overlay}],
    ensures=[
        ensure({path}, "{definition}", "{seam}(...)", why="the seam is in the function meant"),
    ],
)
"""

_OVERLAY = '''\
"""Say what the method is, and the paper it comes from. All that is more than a line lives in this package."""


def {seam}() -> None:
    """Called by the seam in ``{path}``; it does nothing yet, so the upstream runs as before."""
'''


@dataclass(frozen=True)
class Place:
    """Where the first seam goes: a function of the upstream.

    Attributes:
        path: of the file.
        definition: the function's qualified name.
        anchors: statements above which the seam may stand, best first.
        content: the file at the pin.
        package: whether the file's folder is a package; a script's is not.
    """

    path: str
    definition: str
    anchors: tuple[str, ...]
    content: bytes
    package: bool

    def beside(self, name: str) -> str:
        return (PurePosixPath(self.path).parent / name).as_posix()


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
    _check_names(options.upstream, options.pack)
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
            upstream, room = _look_at(project, options, Path(folder), screen)
        else:
            (upstream,) = project.lock.select([own])
            room = _objects_of(project, upstream, Path(folder), screen)
        begun = own is not None and options.pack in upstream.packs
        place = _find(upstream, room, options.place)
        writes = _files(project, upstream, options.pack, place, room, begun=begun)
    lock = project.root / FILE
    old = lock.read_bytes()
    if own is None:
        writes.append(Write(FILE, with_table(old, project.root, upstream), expect=old))
    elif not begun:
        writes.append(Write(FILE, with_pack(old, project.root, upstream.name, options.pack), expect=old))
    wrote = _write(project, upstream, writes, fresh=own is None)
    if not wrote:
        raise BadInput(
            "is there already", where=f"patches/{upstream.name}/{options.pack}.py", remedy="choose another name"
        )
    screen.settle()
    if options.json:
        print(json.dumps({"ok": True, "wrote": wrote}))
    else:
        screen.say("wrote " + ", ".join(wrote))
        screen.say(
            f"next: python apply.py {upstream.name}, python apply.py diff {upstream.name}, then write the method"
        )
    return Exit.OK


def _check_names(upstream: str, pack: str) -> None:
    """The pack's name becomes a module's beside the upstream's own, so that more is asked of it than of a file's."""
    for name in (upstream, pack):
        if not plain(name):
            raise BadInput(f"{name!r} is no plain name", where=NAME, remedy="letters, digits, _ . -, no dot at the end")
    why = ""
    if not pack.isidentifier():
        why = "is no identifier, so nothing could import its overlay"
    elif keyword.iskeyword(pack):
        why = "is a keyword of Python, so nothing could import its overlay"
    elif pack in sys.stdlib_module_names:
        why = "is a module of Python's own library, which its overlay would hide from the upstream's scripts"
    if why:
        raise BadInput(f"the name {pack!r} {why}", where=NAME, remedy="choose another name, as in my_method")


def _look_at(project: Project, options: argparse.Namespace, folder: Path, screen: Screen) -> tuple[Upstream, Path]:
    """A new upstream's pin, read from its repository; the objects are in a temporary repository."""
    name = options.upstream

    def pinned(ref: str, commit_id: str, tree: str, licence: str) -> Upstream:
        path = f"upstreams/{name}"
        return Upstream(name, options.url, ref, commit_id, tree, licence, path, options.python, (options.pack,), None)

    asked = pinned(options.ref, _NO_ID, _NO_ID, _UNKNOWN)
    # The lock's own parser judges the words before git is given them: an address such as ext:: runs a command.
    with_table((project.root / FILE).read_bytes(), project.root, asked)
    git(["init", "-q", "--template=", str(folder)], cwd=folder)
    remote = published(asked, folder)
    tried: list[str] = []
    found = resolve(options.ref, remote, folder, tried)
    if found is None:
        raise GraftError("; ".join(tried), where=options.url, remedy="check --url and --ref")
    ref = (default_branch(remote, folder) or found) if options.ref == "HEAD" else options.ref
    _fetch(pinned(ref, found, _NO_ID, _UNKNOWN), folder, remote, screen)
    licence = read_blob(folder, f"{found}:LICENSE") or b""
    spdx = next((spdx for words, spdx in _LICENSES if words.encode() in licence), _UNKNOWN)
    return pinned(ref, found, tree_id(folder, found), spdx), folder


def _objects_of(project: Project, upstream: Upstream, folder: Path, screen: Screen) -> Path:
    """A repository with the pin of an upstream that the lock has: its checkout, else a temporary one."""
    checkout = project.root / upstream.path
    if (checkout / ".git").exists() and has_commit(checkout, upstream.commit):
        return checkout
    git(["init", "-q", "--template=", str(folder)], cwd=folder)
    _fetch(upstream, folder, published(upstream, folder), screen)
    found = tree_id(folder, upstream.commit)
    if found != upstream.tree:
        what = f"its tree is {found}, the lock says {upstream.tree}"
        raise GraftError(what, where=upstream.name, remedy="correct `tree`, or the source")
    return folder


def _fetch(upstream: Upstream, folder: Path, remote: Remote, screen: Screen) -> None:
    try:
        fetch(upstream, folder, remote, screen.progress)
    except GraftError as error:
        remedy = f"once it can be reached, run again; python apply.py {upstream.name} knows mirrors and archives too"
        raise Unreachable(f"{remote.shown}: {error.what}", where=upstream.name, remedy=remedy) from error


def _find(upstream: Upstream, room: Path, asked: str) -> Place:
    """The function that ``FILE:DEFINITION`` names, and its statements that are unique there."""
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
    marker = f"{upstream.commit}:{PurePosixPath(path).parent / '__init__.py'}"
    package = read_blob(room, marker) is not None
    return Place(path, definition, _anchors(scopes[0], path), content, package)


def _anchors(scope: Definition, path: str) -> tuple[str, ...]:
    """The one-line statements that stand once in the function, last first; the author will choose a better one."""
    lines = [
        first_line(statement)
        for statement in block_statements(scope.body)
        if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1
    ]
    texts = [text.split("#")[0].strip() if "#" in text and '"' not in text else text for text in lines]
    unique = [text for text in texts if texts.count(text) == 1 and "\n" not in text and not text.startswith(('"', "'"))]
    if not unique:
        raise GraftError("it holds no plain statement to anchor at", where=path, remedy="name another function")
    return tuple(reversed(unique))


def _files(project: Project, upstream: Upstream, pack: str, place: Place, room: Path, *, begun: bool) -> list[Write]:
    """The pack and its overlay, proven on the upstream's tree.

    Args:
        begun: the lock has the pack already, so what is there of it is its author's and stays.
    """
    patch = f"patches/{upstream.name}/{pack}.py"
    overlay = f"overlays/{upstream.name}/{place.beside(pack)}/__init__.py"
    there = [path for path in (patch, overlay) if (project.root / path).exists()]
    if there and not begun:
        raise BadInput("is there already", where=there[0], remedy="choose another name for the pack")
    if there:
        return []
    _check_free(project, upstream, pack, place, room)
    # The seam's name holds the pack's, so that two packs in one file do not mean each other's function.
    values = {
        "upstream": upstream.name,
        "pack": pack,
        "seam": f"attach_{pack}",
        "path": json.dumps(place.path, ensure_ascii=False),
        "definition": place.definition,
        "overlay": json.dumps(place.beside(pack), ensure_ascii=False),
        "module": f".{pack}" if place.package else pack,
    }
    text = _holding(project, upstream, pack, place, room, values)
    shell = _OVERLAY.format(seam=values["seam"], path=place.path)
    return [Write(patch, text.encode(), expect=None), Write(overlay, shell.encode(), expect=None)]


def _check_free(project: Project, upstream: Upstream, pack: str, place: Place, room: Path) -> None:
    """Refuses an overlay that would hide a module of the upstream's, or be hidden by one."""
    overlay, where = place.beside(pack), f"--in {place.path}"
    remedy = "choose another name for the pack"
    folder = PurePosixPath(place.path).parent.as_posix()
    tree = upstream.commit if folder == "." else f"{upstream.commit}:{folder}"
    beside = [name for name in git_text(["ls-tree", "-z", "--name-only", tree], cwd=room).split("\0") if name]
    ours = project.root / "overlays" / upstream.name / folder
    beside += [f"{pack}.py"] if (ours / f"{pack}.py").exists() else []
    for name in beside:
        # Folded, since on some file systems two names that differ in case are one file.
        if name.casefold() in (pack.casefold(), f"{pack}.py".casefold()):
            what = f"the overlay {overlay}/ and {place.beside(name)} would be one module"
            raise BadInput(what, where=where, remedy=remedy)
    if f"attach_{pack}" in re.findall(r"\w+", place.content.decode("utf-8", "replace")):
        raise BadInput(f"the file has a name attach_{pack} of its own", where=where, remedy=remedy)
    if not place.package:
        for path in _importers(upstream, room, pack):
            raise BadInput(
                f"{path} imports {pack}, which the overlay {overlay}/ would hide from it", where=where, remedy=remedy
            )


def _importers(upstream: Upstream, room: Path, name: str) -> Iterator[str]:
    """The files that import a top-level module: a script's folder comes first on its path."""
    listed = git_text(["ls-tree", "-r", "-z", "--name-only", upstream.commit], cwd=room).split("\0")
    paths = [path for path in listed if path.endswith(".py")]
    forms = rf"from[ \t]+{name}\b|import[ \t]+(?:[^#\n]*,[ \t]*)?{name}\b"
    wanted = re.compile(rf"^[ \t]*(?:{forms})".encode(), re.MULTILINE)
    for path, content in zip(paths, read_blobs(room, [f"{upstream.commit}:{path}" for path in paths]), strict=True):
        if content is not None and wanted.search(content):
            yield path


def _holding(project: Project, upstream: Upstream, pack: str, place: Place, room: Path, values: dict[str, str]) -> str:
    """The text of the pack at the first anchor where every edit and post-condition of it holds, beside other packs."""
    tree = CommitTree(room, upstream.commit)
    others = [one.pack for one in load_packs(project.root, upstream, [name for name in upstream.packs if name != pack])]
    if rewrite(tree, others).failures:
        others = []  # what ails them is theirs, and ``apply`` says it
    first: GraftError | None = None
    for anchor in place.anchors:
        text = _PACK.format(**values, anchor=json.dumps(anchor, ensure_ascii=False))
        try:
            failures: Sequence[GraftError] = rewrite(tree, [*others, _loaded(upstream, pack, text)]).failures
        except GraftError as error:
            failures = [error]
        if not failures:
            return text
        first = first or failures[0]
    assert first is not None
    where = f"--in {place.path}:{place.definition}"
    raise GraftError(f"no seam holds there: {first.what}", where=where, remedy="name another function") from first


def _loaded(upstream: Upstream, pack: str, text: str) -> Pack:
    """The pack that a text is, read as it will be."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "patches", upstream.name, f"{pack}.py")
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        return load_pack(Path(folder), upstream.name, pack)[0]


def _write(project: Project, upstream: Upstream, writes: list[Write], *, fresh: bool) -> list[str]:
    """All of it in one transaction; returns what was written, nothing where all was there.

    The gitlink comes with a new upstream, and with one that ``.gitmodules`` names and the index lacks, as a run leaves
    it that was killed before it was written.
    """
    home = git_dir(project.root)
    wrote = [write.path for write in writes]
    with flock.held(home):
        recover(project.root, home)
        if fresh:
            writes += entry(project.root, upstream.path, upstream.url)
            wrote = [write.path for write in writes]
        if fresh or (upstream.path in modules(project.root) and recorded(project.root, upstream.path) is None):
            writes.append(gitlink(project.root, upstream.path, upstream.commit))
            wrote.append(upstream.path)
        commit(project.root, home, writes)
    return wrote
