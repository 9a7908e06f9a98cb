"""What graft remembers of a checkout: which contents it read there and which it wrote, kept in the git directory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from graft.errors import GraftError
from graft.fsops import digest
from graft.writes import Write

SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One file that carries the graft.

    ``read`` and ``wrote`` are the sha256 of the content before (None: there was no file) and after; both contents are
    kept as blobs. For a symbolic link ``link`` is its target and ``wrote`` the digest of that target's bytes, which
    needs no blob. ``mode`` is the permission bits written, ``source`` the overlay file that it came from, relative to
    the repository, and ``packs`` the names of the packs that asked for it.
    """

    kind: Literal["edit", "overlay"]
    read: str | None
    wrote: str
    mode: int
    link: str | None = None
    source: str | None = None
    packs: tuple[str, ...] = ()

    def blobs(self) -> set[str]:
        """The digests of the contents that undoing this entry needs."""
        wanted = set() if self.read is None else {self.read}
        return wanted if self.link is not None else wanted | {self.wrote}


@dataclass
class Ledger:
    """Everything that graft remembers of one checkout; ``entries`` goes by path relative to the work tree."""

    upstream: str = ""
    commit: str = ""
    tree: str = ""
    packs: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def load(cls, gitdir: Path) -> Ledger:
        """Read ``<gitdir>/graft/ledger.json``; a missing one is an empty ledger.

        Raises:
            GraftError: it is damaged, or was written by a newer graft.
        """
        path = gitdir / "graft" / "ledger.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise GraftError(f"cannot be read: {error.strerror}", where=str(path), remedy="make it readable") from error
        try:
            data = json.loads(text)
            schema = data["schema"]
            if not isinstance(schema, int) or schema < 1:
                raise ValueError(f"schema {schema!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        if schema > SCHEMA:
            raise GraftError(
                f"written by a newer graft (schema {schema}, this one knows {SCHEMA})",
                where=str(path),
                remedy="update this repository (git pull), then run again",
            )
        try:
            packs = {_text(name): _text(value) for name, value in data["packs"].items()}
            entries = {_path(name): _entry(value) for name, value in data["entries"].items()}
            return cls(_text(data["upstream"]), _text(data["commit"]), _text(data["tree"]), packs, entries)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error

    def dump(self) -> bytes:
        """The ledger as JSON; equal ledgers give equal bytes."""
        entries = {
            path: {
                "kind": entry.kind,
                "read": entry.read,
                "wrote": entry.wrote,
                "mode": f"{entry.mode:03o}",
                "link": entry.link,
                "source": entry.source,
                "packs": sorted(entry.packs),
            }
            for path, entry in self.entries.items()
        }
        data = {"schema": SCHEMA, "upstream": self.upstream, "commit": self.commit, "tree": self.tree}
        return (json.dumps(data | {"packs": self.packs, "entries": entries}, indent=1, sort_keys=True) + "\n").encode()

    def writes(self, gitdir: Path, contents: Iterable[bytes] = ()) -> list[Write]:
        """What to put into the transaction of the tree's files so that memory and tree never disagree.

        Args:
            gitdir: the checkout's git directory.
            contents: the contents that the entries name and that may not be kept yet; more than needed does no harm.

        Returns:
            The writes in space "git": ``ledger.json`` (deleted when there are no entries), the blobs given, and the
            deletion of blobs that no entry names any more. An unchanged ledger gives writes that change nothing.

        Raises:
            GraftError: an entry names a content that is neither given nor kept.
        """
        folder = gitdir / "graft" / "blobs"
        wanted = {blob for entry in self.entries.values() for blob in entry.blobs()}
        given = {name: data for data in contents if (name := digest(data)) in wanted}
        kept = {item.name for item in folder.iterdir() if _SHA256.fullmatch(item.name)} if folder.is_dir() else set()
        for path, entry in self.entries.items():
            if lost := entry.blobs() - given.keys() - kept:
                raise GraftError(f"the content {min(lost)} is neither kept nor given", where=path, remedy=_FRESH)
        listing = self.dump() if self.entries else None
        return [
            Write("graft/ledger.json", listing, space="git"),
            *(Write(f"graft/blobs/{name}", given[name], mode=0o444, space="git", ours=True) for name in sorted(given)),
            *(Write(f"graft/blobs/{name}", None, space="git", ours=True) for name in sorted(kept - wanted)),
        ]


def read_blob(gitdir: Path, sha256: str) -> bytes:
    """The content kept under ``sha256``.

    Raises:
        GraftError: it is missing, or its bytes are no longer those of its name.
    """
    path = gitdir / "graft" / "blobs" / sha256
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GraftError(
            f"a content that graft kept is gone: {error.strerror}", where=str(path), remedy=_FRESH
        ) from error
    if digest(data) != sha256:
        raise GraftError("a content that graft kept is damaged", where=str(path), remedy=_FRESH)
    return data


_FRESH = (
    "keep your own edits (git diff > mine.patch in the checkout), then clone the checkout afresh and apply again; "
    "graft cannot undo by itself what it no longer remembers"
)


def _damaged(path: Path, error: Exception) -> GraftError:
    return GraftError(f"the ledger is damaged ({type(error).__name__}: {error})", where=str(path), remedy=_FRESH)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no sha256")
    return value


def _path(value: str) -> str:
    if not value or value.startswith("/") or ".." in PurePosixPath(value).parts:
        raise ValueError(f"{value!r} is no path inside the checkout")
    return value


def _entry(data: dict[str, Any]) -> Entry:
    if data["kind"] not in ("edit", "overlay"):
        raise ValueError(f"kind {data['kind']!r}")
    return Entry(
        kind=cast(Literal["edit", "overlay"], data["kind"]),
        read=None if data["read"] is None else _sha256(data["read"]),
        wrote=_sha256(data["wrote"]),
        mode=int(_text(data["mode"]), 8),
        link=None if data["link"] is None else _text(data["link"]),
        source=None if data["source"] is None else _path(_text(data["source"])),
        packs=tuple(_text(name) for name in data["packs"]),
    )
