"""The lock: what is pinned, from where, and what proves it. Read and checked whole before anything else happens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import BadInput

FILE = "upstream.lock"

_BELOW = "upstreams/"

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_FULL_ID = re.compile(r"[0-9a-f]{40}\Z")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*\Z")
_LICENSE = re.compile(r"[A-Za-z0-9(][A-Za-z0-9.+() -]*\Z")
_PYTHON = re.compile(r"(?:(?:>=|<=|==|!=|~=|<|>)\s*\d+(?:\.\d+){0,2}(?:\.\*)?\s*(?:,\s*(?!\Z)|\Z))+")
# A user or host that begins with `-` would be an option of ssh.
_USER, _HOST = r"[A-Za-z0-9][^\s/@:]*@", r"[A-Za-z0-9][A-Za-z0-9._-]*"
_URL = re.compile(
    rf"(?:https?|ssh|git)://(?:{_USER})?{_HOST}(?::\d+)?(?:/\S*)?\Z"  # with a scheme
    rf"|{_USER}{_HOST}:[^\s:-]\S*\Z"  # as scp takes it
    rf"|(?:file://(?:{_HOST})?)?/\S*\Z"  # on this machine
)

_KEYS = ("url", "ref", "commit", "tree", "license", "path", "python", "packs", "archive")
_ARCHIVE_KEYS = ("commit", "distribution", "version", "file", "sha256", "size", "without", "commit_object")


@dataclass(frozen=True)
class Archive:
    """A source archive on the Python registry whose content is the pinned tree.

    Attributes:
        distribution: the registry's name for it.
        version: the release.
        file: the archive's file name, a ``.tar.gz``.
        sha256: of the file, 64 hex digits.
        size: of the file, bytes.
        without: members (below the archive's top directory) that are not in the tree.
        commit_object: the commit object's content; its git id is the upstream's ``commit``.
    """

    distribution: str
    version: str
    file: str
    sha256: str
    size: int
    without: tuple[str, ...]
    commit_object: bytes


@dataclass(frozen=True)
class Upstream:
    """One pinned repository.

    Attributes:
        name: as the user types it.
        url: where it is published; git's ``insteadOf`` applies to it.
        ref: branch or tag the pin was taken from.
        commit: the pin, 40 hex digits.
        tree: the pin's git tree id: what every source has to yield.
        license: SPDX expression.
        path: of the checkout, relative to the project's root, with ``/``.
        python: the interpreters its environment runs on, as in ``>=3.10,<3.12``.
        packs: names of the packs it receives, in order.
        archive: the registry's copy, where there is one.
    """

    name: str
    url: str
    ref: str
    commit: str
    tree: str
    license: str
    path: str
    python: str
    packs: tuple[str, ...]
    archive: Archive | None


@dataclass(frozen=True)
class Lock:
    """The whole lock, in the order of the file."""

    file: Path
    upstreams: tuple[Upstream, ...]

    @classmethod
    def load(cls, root: Path) -> Lock:
        """Read and check ``upstream.lock`` in ``root``.

        Raises:
            BadInput: missing or malformed; names the file, table and key, what was expected, and the remedy.
        """
        return cls._checked(root / FILE, read_toml(root / FILE))

    @classmethod
    def of(cls, content: bytes, file: Path) -> Lock:
        """The same for a content that is to become ``file``."""
        return cls._checked(file, parse_toml(content, file))

    @classmethod
    def _checked(cls, file: Path, data: dict[str, Any]) -> Lock:
        top = _Table(str(file), "", data)
        top.only(("format", "upstream"))
        if top.get("format", int, "the number 1") != 1:
            raise top.bad("format", "this version reads format 1", "update graft, or restore the lock it came with")
        tables = top.get("upstream", dict, "a table for each upstream, as in [upstream.NAME]")
        if not tables:
            raise top.bad("upstream", "it names no upstream", "add a table for each, as in [upstream.NAME]")
        upstreams = tuple(_upstream(str(file), file.parent, name, table) for name, table in tables.items())
        _distinct(str(file), upstreams)
        return cls(file, upstreams)

    @property
    def names(self) -> tuple[str, ...]:
        """The upstreams' names, in the order of the file."""
        return tuple(upstream.name for upstream in self.upstreams)

    def select(self, names: Sequence[str]) -> tuple[Upstream, ...]:
        """The upstreams of those names (case does not matter), each once, in the lock's order; all for no names.

        Raises:
            BadInput: an unknown name; names the nearest.
        """
        if not names:
            return self.upstreams
        known = {upstream.name.casefold(): upstream for upstream in self.upstreams}
        for name in names:
            if name.casefold() not in known:
                raise BadInput(
                    f"no upstream is called {name!r}{_near(name, self.names)}",
                    where=str(self.file),
                    remedy=f"name one of: {', '.join(self.names)}",
                )
        wanted = {name.casefold() for name in names}
        return tuple(upstream for upstream in self.upstreams if upstream.name.casefold() in wanted)


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        BadInput: it is missing, unreadable, not UTF-8 or not TOML (with the line).
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise BadInput("there is no such file", where=str(file), remedy="restore it: git checkout -- FILE") from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(file), remedy="check its permissions") from error
    return parse_toml(content, file)


def parse_toml(content: bytes, file: Path) -> dict[str, Any]:
    """The same for bytes that are, or are to become, ``file``.

    Raises:
        BadInput: not UTF-8 or not TOML (with the line).
    """
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"byte {error.start} is not UTF-8", where=str(file), remedy="save the file as UTF-8") from error
    try:
        loaded: dict[str, Any] = toml.loads(text)
    except ValueError as error:
        raise BadInput(f"not TOML: {error}", where=str(file), remedy="mend the line; see https://toml.io") from error
    return loaded


def _near(name: str, known: Collection[str]) -> str:
    import difflib

    folded = {entry.casefold(): entry for entry in known}
    best = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.4)
    return f"; did you mean {folded[best[0]]!r}?" if best else ""


class _Table:
    """One table of a TOML file, and the errors about its keys."""

    def __init__(self, file: str, name: str, data: Mapping[str, Any]) -> None:
        self.file, self.name, self.data = file, name, data

    def bad(self, key: str, expected: str, remedy: str) -> BadInput:
        place = f"{self.file}, [{self.name}], key `{key}`" if self.name else f"{self.file}, key `{key}`"
        got = self.data.get(key)
        shown = repr(got)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        return BadInput(f"is {shown}; {expected}" if key in self.data else expected, where=place, remedy=remedy)

    def only(self, keys: Collection[str]) -> None:
        for key in self.data:
            if key not in keys:
                raise BadInput(
                    f"unknown key{_near(key, keys)}",
                    where=f"{self.file}, [{self.name}], key `{key}`" if self.name else f"{self.file}, key `{key}`",
                    remedy=f"remove it, or use one of: {', '.join(keys)}",
                )

    def get(self, key: str, kind: type, expected: str, *, default: Any = None) -> Any:
        if key not in self.data:
            if default is not None:
                return default
            raise self.bad(key, f"is missing; expected {expected}", f"add `{key} = ...`")
        value = self.data[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.bad(key, f"expected {expected}", f"correct `{key}`")
        return value

    def string(self, key: str, fits: Callable[[str], object], expected: str, remedy: str) -> str:
        value: str = self.get(key, str, expected)
        if not fits(value):
            raise self.bad(key, f"expected {expected}", remedy)
        return value

    def names(self, key: str, fits: Callable[[str], object], expected: str) -> tuple[str, ...]:
        values = self.get(key, list, expected)
        for value in values:
            if not isinstance(value, str) or not fits(value):
                raise self.bad(key, f"expected {expected}; {value!r} is none", f"correct `{key}`")
        if len(set(values)) != len(values):
            raise self.bad(key, f"expected {expected}, each once", f"remove what `{key}` names twice")
        return tuple(values)


def _upstream(file: str, root: Path, name: str, data: object) -> Upstream:
    where = f"upstream.{name}"
    if not plain(name):
        raise BadInput(
            f"{name!r} is no name for an upstream; expected letters, digits, `.`, `_` and `-`, a letter or digit first",
            where=f"{file}, [{where}]",
            remedy="rename the table",
        )
    if not isinstance(data, dict):
        raise BadInput("expected a table", where=f"{file}, [{where}]", remedy=f"write [{where}] and its keys below")
    table = _Table(file, where, data)
    table.only(_KEYS)
    commit = _object_id(table, "commit")
    tree = _object_id(table, "tree")
    archive = table.get("archive", dict, "a table", default={})
    return Upstream(
        name=name,
        url=table.string(
            "url",
            _url,
            "an https, ssh, git or file URL without a password in it, user and host beginning with a letter or digit "
            "(helpers such as `ext::` run commands)",
            "write the address as `git clone` takes it",
        ),
        ref=table.string("ref", _ref, "a branch or tag name", "write the name as `git ls-remote` shows it"),
        commit=commit,
        tree=tree,
        license=table.string(
            "license", _LICENSE.match, "an SPDX expression, as in MIT", "see https://spdx.org/licenses"
        ),
        path=_path(table, root),
        python=table.string("python", _PYTHON.match, "versions, as in >=3.10,<3.12", "correct `python`"),
        packs=table.names("packs", plain, 'a list of pack names, as in [] or ["a", "b"]'),
        archive=_archive(_Table(file, f"{where}.archive", archive), commit, tree) if "archive" in data else None,
    )


def _object_id(table: _Table, key: str) -> str:
    return table.string(
        key,
        _FULL_ID.match,
        "a full id: 40 lower-case hex digits, not abbreviated, no branch or tag",
        "git rev-parse REF^{commit}" if key == "commit" else "git rev-parse COMMIT^{tree}",
    )


def _path(table: _Table, root: Path) -> str:
    path = table.string(
        "path",
        # Anywhere else it could be, or swallow, a folder of the project's own.
        lambda value: value.startswith(_BELOW) and all(plain(part) for part in value.split("/")),
        f"a relative path below {_BELOW} with `/` between plain names, no `..`, none beginning with `-` or `.`",
        f"write it as in {_BELOW}NAME",
    )
    # Only what exists can lead out; resolving the deepest part covers every symlink on the way.
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(os.path.join(root, path))]) != real_root:
        raise table.bad("path", "a symbolic link there leads out of the project", "make it a directory of the project")
    return path


def _archive(table: _Table, commit: str, tree: str) -> Archive | None:
    """The archive, checked; None when it is that of another commit, as after an upgrade from a release."""
    table.only(_ARCHIVE_KEYS)
    own = _object_id(table, "commit") if "commit" in table.data else commit
    archive = Archive(
        distribution=table.string("distribution", plain, "a distribution's name", "write it as pip takes it"),
        version=table.string(
            "version", re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+]*\Z").match, "a release", "as pip shows it"
        ),
        file=table.string(
            "file",
            lambda value: plain(value) and value.endswith(".tar.gz"),
            "the file name of a .tar.gz source archive",
            "write the name without a directory",
        ),
        sha256=table.string(
            "sha256", re.compile(r"[0-9a-f]{64}\Z").match, "64 lower-case hex digits", "run sha256sum on the archive"
        ),
        size=table.get("size", int, "the archive's size in bytes"),
        without=table.names("without", _member, "a list of members' paths below the archive's top directory"),
        commit_object=_commit_object(table, own, tree if own == commit else None),
    )
    if archive.size <= 0:
        raise table.bad("size", "expected the archive's size in bytes", "correct `size`")
    return archive if own == commit else None


def _commit_object(table: _Table, commit: str, tree: str | None) -> bytes:
    text: str = table.get("commit_object", str, "the commit object in base64")
    remedy = f"git cat-file commit {commit} | base64"
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise table.bad("commit_object", f"not base64 ({error})", remedy) from error
    found = hashlib.sha1(b"commit %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != commit:
        raise table.bad("commit_object", f"its id is {found}, the pinned commit is {commit}", remedy)
    first = content.split(b"\n", 1)[0]
    if tree is not None and first != b"tree " + tree.encode():
        raise table.bad("commit_object", f"it says `{first.decode()}`, the lock's tree is {tree}", "correct `tree`")
    return content


def _distinct(file: str, upstreams: Sequence[Upstream]) -> None:
    names: dict[str, str] = {}
    paths: dict[str, str] = {}
    for upstream in upstreams:
        where = f"{file}, [upstream.{upstream.name}]"
        # Folded: on a file system that ignores case two such checkouts would be one.
        other = names.setdefault(upstream.name.casefold(), upstream.name)
        if other != upstream.name:
            raise BadInput(f"the name differs from {other!r} in case only", where=where, remedy="rename one of them")
        folded = upstream.path.casefold() + "/"
        for path, owner in paths.items():
            if folded.startswith(path) or path.startswith(folded):
                raise BadInput(
                    f"path {upstream.path!r} is, or lies in, the one of {owner!r}",
                    where=f"{where}, key `path`",
                    remedy="give each upstream a path of its own",
                )
        paths[folded] = upstream.name


def plain(value: str) -> bool:
    """Whether a text is fit to be the name of an upstream, of a pack or of a folder."""
    return bool(_PLAIN.match(value)) and not value.endswith((".", ".lock")) and ".." not in value


def _member(value: str) -> bool:
    return bool(value) and all(part not in ("", ".", "..") for part in value.split("/"))


def _ref(value: str) -> bool:
    return (
        bool(_REF.match(value)) and ".." not in value and "//" not in value and not value.endswith(("/", ".", ".lock"))
    )


def _url(value: str) -> bool:
    return bool(_URL.match(value)) and "::" not in value and not re.match(r"\w+://[^/@]*:[^/@]*@", value)
