"""A pack: the declarative diff of one method against one upstream, and how packs are read from ``patches/``.

A pack file defines ``PACK``::

    PACK = Pack(
        upstream="openvla",
        name="gradient_surgery",
        why="gradient surgery on LoRA fine-tuning against forgetting",
        edits=[
            In(
                "vla-scripts/finetune.py",
                "finetune",
                after("$vla = DDP($vla, ...)", add="surgery = attach($vla.module)", why="hooks need the wrapped model"),
            ),
        ],
        overlays=["research"],
    )
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import libcst as cst

from graft.edits.base import Edit, caller
from graft.edits.brackets import add_keyword, into_dict
from graft.edits.choice import either
from graft.edits.members import add_base, add_field, add_import, add_parameter
from graft.edits.statements import after, before, is_statement, replace
from graft.errors import BadInput
from graft.pattern import match, parse
from graft.source import Definition, expressions, statements

__all__ = [
    "Ensure",
    "In",
    "Pack",
    "add_base",
    "add_field",
    "add_import",
    "add_keyword",
    "add_parameter",
    "after",
    "before",
    "either",
    "ensure",
    "into_dict",
    "load_pack",
    "replace",
]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_path(path: str, *, where: str) -> str:
    """``path`` itself where it is a plain relative path that stays below its root.

    Raises:
        BadInput: empty, absolute, with ``..`` or a backslash, beginning with ``-``, or inside ``.git``.
    """
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    plain = bool(parts) and not path.startswith(("/", "-", "~")) and "\\" not in path and "\0" not in path
    if not plain or ".." in parts or ":" in parts[0] or any(part.lower() == ".git" for part in parts):
        raise BadInput(
            f"{path!r} is no path inside a checkout",
            where=where,
            remedy="write a relative path with forward slashes, without '..' and outside .git",
        )
    return str(PurePosixPath(path))


@dataclass(frozen=True, init=False)
class In:
    """Edits inside one definition.

    Args:
        path: where the definition is now; a hint, it is followed when it moves.
        definition: its qualified name (``Class.method``), None for the module itself.
        edits: what to do there.
    """

    path: str
    definition: str | None
    edits: tuple[Edit, ...]
    where: str

    def __init__(self, path: str, definition: str | None, *edits: Edit) -> None:
        where = caller()
        named = definition is None or isinstance(definition, str)
        if not named or not edits or not all(isinstance(edit, Edit) for edit in edits):
            raise BadInput(
                "In() wants a path, a definition and edits", where=where, remedy="In('f.py', 'fn', after(...))"
            )
        object.__setattr__(self, "path", check_path(path, where=where))
        object.__setattr__(self, "definition", definition or None)
        object.__setattr__(self, "edits", edits)
        object.__setattr__(self, "where", where)


@dataclass(frozen=True)
class Ensure:
    """A post-condition: code that must stand in a definition once everything is applied."""

    path: str
    definition: str | None
    pattern: str
    why: str
    times: int
    where: str

    def count(self, scopes: Sequence[Definition]) -> int:
        syntax = parse(self.pattern, where=self.where)
        if isinstance(syntax, cst.BaseExpression):
            return sum(match(syntax, node) is not None for scope in scopes for node in expressions(scope))
        return sum(is_statement(syntax, node) is not None for scope in scopes for node in statements(scope.body))


def ensure(path: str, definition: str | None, pattern: str, *, why: str, times: int = 1) -> Ensure:
    """After all edits ``pattern`` stands exactly ``times`` times in ``definition``."""
    where = caller()
    parse(pattern, where=where)
    return Ensure(check_path(path, where=where), definition or None, pattern, why, times, where)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """One method's diff against one upstream.

    Args:
        upstream: the name in the lock.
        name: the pack's own name, that of its file.
        why: what the method is, in a sentence.
        edits: the seams.
        overlays: files and folders below ``overlays/<upstream>/`` that land at the same path in the checkout.
        common: packages below ``overlays/common/`` and the folder of the checkout that each becomes.
        ensures: post-conditions beyond those that every edit brings by itself.
    """

    upstream: str
    name: str
    why: str
    edits: Sequence[In] = ()
    overlays: Sequence[str] = ()
    common: Mapping[str, str] = field(default_factory=dict)
    ensures: Sequence[Ensure] = ()
    where: str = field(default_factory=caller)

    def __post_init__(self) -> None:
        self._check("edits", self.edits, In, "In('file.py', 'function', after(...))")
        self._check("overlays", self.overlays, str, "'src/package/method'")
        self._check("ensures", self.ensures, Ensure, "ensure('file.py', 'function', 'attach(...)', why='...')")
        if not isinstance(self.common, Mapping) or not all(isinstance(path, str) for path in self.common.values()):
            raise BadInput(
                "common= is no mapping", where=self.where, remedy="write common={'package': 'folder/package'}"
            )
        for word in ("upstream", "name", "why"):
            if not isinstance(getattr(self, word), str):
                raise BadInput(f"{word}= is no text", where=self.where, remedy=f'write {word}="..."')
        if not _NAME.fullmatch(self.name):
            raise BadInput(f"the name {self.name!r} is not plain", where=self.where, remedy="letters, digits, _ . -")
        if not self.why.strip():
            raise BadInput(f"the pack {self.name} has no reason", where=self.where, remedy="say why= in a sentence")
        if not (self.edits or self.overlays or self.common):
            raise BadInput(f"the pack {self.name} does nothing", where=self.where, remedy="give it edits or overlays")
        for path in (*self.overlays, *self.common, *self.common.values()):
            check_path(path, where=self.where)

    def _check(self, word: str, value: object, kind: type, example: str) -> None:
        if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
            raise BadInput(
                f"{word}= is no list of {kind.__name__}", where=self.where, remedy=f"write {word}=[{example}]"
            )

    def each(self) -> Iterator[tuple[In, Edit]]:
        for place in self.edits:
            for edit in place.edits:
                yield place, edit


def load_pack(root: Path, upstream: str, name: str) -> tuple[Pack, str]:
    """The pack of ``patches/<upstream>/<name>.py`` and the SHA-256 of that file.

    Raises:
        BadInput: no such file, it does not run, it defines no ``PACK``, or one of another name.
    """
    relative = f"patches/{upstream}/{name}.py"
    path = root / relative
    if not _NAME.fullmatch(name) or not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        remedy = f"packs of {upstream}: {', '.join(known)}" if known else f"write {relative}"
        raise BadInput(f"there is no pack {name!r} for {upstream}", where="upstream.lock", remedy=remedy)
    spec = importlib.util.spec_from_file_location(f"_graft_pack_{upstream}_{name}".replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except BadInput:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a pack is code of this repository; whatever it raises is its author's to read
        line = getattr(error, "lineno", None) or _line_in(error, path)
        raise BadInput(
            f"the pack does not load: {type(error).__name__}: {error}",
            where=f"{relative}:{line}",
            remedy="mend the pack",
        ) from error
    finally:
        sys.dont_write_bytecode = writes
    pack = getattr(module, "PACK", None)
    if not isinstance(pack, Pack):
        raise BadInput("the file defines no PACK = Pack(...)", where=relative, remedy="see docs/adding-a-method.md")
    if (pack.upstream, pack.name) != (upstream, name):
        raise BadInput(
            f"the pack calls itself {pack.upstream}/{pack.name}", where=relative, remedy=f"name it {upstream}/{name}"
        )
    return pack, hashlib.sha256(path.read_bytes()).hexdigest()


def _line_in(error: BaseException, path: Path) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
