"""What the conformance tests of the stand-ins share: both trees, definitions in them, what overlays import.

Trees are parsed; no upstream code is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.git import run
from graft.history import find
from graft.lock import Lock
from graft.pack import Pack, load_pack
from graft.rewrite import Outcome, State, rewrite
from graft.tree import CommitTree, Tree, WorkTree
from tests.standins.grafted import REPOSITORY, packs_of
from tests.standins.used import real as used_real
from tests.standins.used import stands_in


def own_tree(upstream: str) -> Tree:
    """The stand-in as it lies here."""
    folder = REPOSITORY / "tests" / "standins" / upstream
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.py"))]
    return WorkTree(folder, files, {})


def real_tree(upstream: str) -> Tree:
    """The real upstream at the pin, from its checkout or from a mirror of its history; skips where there is none."""
    (pinned,) = Lock.load(REPOSITORY).select([upstream])
    places = [REPOSITORY / pinned.path]
    try:
        with find(pinned, REPOSITORY) as history:
            places.append(Path(history.git_dir))
    except GraftError as error:
        reason = str(error).splitlines()[0]
    else:
        reason = "no repository here has the pinned commit"
    for place in places:
        inside = (place / ".git").exists() or (place / "HEAD").is_file()
        if inside and run(["cat-file", "-e", f"{pinned.commit}^{{commit}}"], cwd=place).code == 0:
            used_real(upstream, f"{pinned.commit[:10]} from {place}")
            return CommitTree(place, pinned.commit)
    stands_in(upstream, f"its conformance was not looked at: {reason}")
    pytest.skip(f"{upstream}: {reason}")


def loaded(upstream: str) -> list[Pack]:
    return [load_pack(REPOSITORY, upstream, name)[0] for name in packs_of(upstream)]


def outcomes(tree: Tree, upstream: str) -> list[Outcome]:
    """How the upstream's packs fare on a tree; every edit has to find its place."""
    made = rewrite(tree, loaded(upstream))
    assert [str(problem) for problem in made.failures] == []
    return made.outcomes


def places(tree: Tree, upstream: str) -> list[tuple[str, str, str, str, str | None]]:
    """Where each edit went."""
    return [(o.pack, o.verb, o.anchor, o.path, o.definition) for o in outcomes(tree, upstream)]


@dataclass(frozen=True)
class Named:
    """A definition in a tree, by "path qualified.name"."""

    tree: Tree
    name: str

    @property
    def node(self) -> ast.FunctionDef | ast.ClassDef:
        path, _, qualified = self.name.partition(" ")
        scope: ast.AST = module(self.tree, path)
        for part in qualified.split("."):
            found = [
                each
                for each in ast.iter_child_nodes(scope)
                if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == part
            ]
            assert found, f"{self.name} is not there"
            scope = found[-1]
        assert isinstance(scope, ast.FunctionDef | ast.ClassDef)
        return scope


def module(tree: Tree, path: str) -> ast.Module:
    content = tree.read(path)
    assert content is not None, f"there is no {path}"
    return ast.parse(content)


def parameters(node: ast.AST) -> list[tuple[str, str]]:
    """Names and defaults in order; ``*args`` and ``**kwargs`` by their kind."""
    assert isinstance(node, ast.FunctionDef)
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    missing = [None] * (len(plain) - len(given.defaults))
    pairs = [
        *zip(plain, [*missing, *given.defaults], strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]
    found = [(each.arg, ast.unparse(value) if value else "") for each, value in pairs]
    return found + [(kind, "") for kind, each in (("*", given.vararg), ("**", given.kwarg)) if each]


def fields(node: ast.AST) -> dict[str, str]:
    assert isinstance(node, ast.ClassDef)
    return {
        each.target.id: ast.unparse(each.value) if each.value else ""
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def first_calls(node: ast.AST, wanted: tuple[str, ...]) -> list[str]:
    """Of the calls wanted, each once, in the order in which they first stand."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    calls.sort(key=lambda each: (each.lineno, each.col_offset))
    return list(dict.fromkeys(name for each in calls if (name := ast.unparse(each.func)) in wanted))


def formatted(tree: Tree, path: str) -> set[str]:
    return {ast.unparse(each) for each in ast.walk(module(tree, path)) if isinstance(each, ast.JoinedStr)}


def imports_of_overlays(overlay: Path, *packages: str) -> Iterator[tuple[str, str]]:
    """What overlay files import from upstream's own ``packages``: module and name."""
    for path in sorted(overlay.rglob("*.py")):
        for each in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(each, ast.ImportFrom) and each.module and each.level == 0:
                top = each.module.split(".")[0]
                if top in packages:
                    yield from ((each.module, alias.name) for alias in each.names)


def check_edits(tree: Tree, upstream: str) -> None:
    """Every edit of every pack stands in the tree, where it names it."""
    found = outcomes(tree, upstream)
    assert len(found) == sum(len(list(pack.each())) for pack in loaded(upstream)) > 0
    assert {outcome.state for outcome in found} == {State.APPLIED}
    assert [outcome.moved_from for outcome in found if outcome.moved_from] == []


def check_imports(tree: Tree, overlay: Path, *packages: str) -> None:
    """The tree offers all that overlay files import from upstream's own ``packages``, and that is something."""
    wanted = sorted(set(imports_of_overlays(overlay, *packages)))
    assert wanted
    assert [each for each in wanted if not offers(tree, overlay, *each)] == []


def offers(tree: Tree, overlay: Path, imported: str, name: str) -> bool:
    """Whether a module of the tree defines, imports or is a package of that name; the overlay's own modules count."""
    base = imported.replace(".", "/")
    if (overlay / f"{base}.py").is_file() or (overlay / base / f"{name}.py").is_file():
        return True
    content = tree.read(f"{base}.py")
    content = tree.read(f"{base}/__init__.py") if content is None else content
    if content is None:
        return False
    known: set[str] = set()
    for each in ast.parse(content).body:
        if isinstance(each, ast.ImportFrom | ast.Import):
            known |= {alias.asname or alias.name for alias in each.names}
        elif isinstance(each, ast.FunctionDef | ast.ClassDef):
            known.add(each.name)
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            known |= {target.id for target in targets if isinstance(target, ast.Name)}
    return name in known or tree.read(f"{base}/{name}.py") is not None
