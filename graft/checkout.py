"""A checkout as it is now: what graft remembers of it, and what its files would be without a graft."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

from graft.errors import Collision
from graft.fsops import digest
from graft.git import git
from graft.git import read_blob as committed
from graft.ledger import Ledger, read_blob
from graft.lock import Upstream
from graft.merge import unapply


class Checkout:
    """A checkout, what graft remembers of it, and its grafted files as they are now."""

    def __init__(self, root: Path, path: Path, gitdir: Path, upstream: Upstream) -> None:
        self.root, self.path, self.gitdir, self.upstream = root, path, gitdir, upstream
        self.ledger = Ledger.load(gitdir)
        self.adopted: frozenset[str] = frozenset()  # overlay files whose edits their sources have already

    @cached_property
    def tracked(self) -> list[str]:
        listed = git(["ls-tree", "-r", "-z", "--name-only", "HEAD"], cwd=self.path)
        return [os.fsdecode(name) for name in listed.split(b"\0") if name]

    @cached_property
    def upstreams_own(self) -> set[str]:
        """Every file of the upstream and every folder that one lies in."""
        return {*self.tracked, *(str(parent) for path in self.tracked for parent in PurePosixPath(path).parents)}

    @cached_property
    def now(self) -> dict[str, bytes | None]:
        """The grafted files' bytes; None for one that is gone, the target's bytes for a link."""
        return {path: self.content(path) for path in self.ledger.entries}

    def content(self, path: str) -> bytes | None:
        file = self.path / path
        if file.is_symlink():
            return os.fsencode(os.readlink(file))
        return file.read_bytes() if file.is_file() else None

    def untouched(self, path: str) -> bool:
        """Whether a grafted file is as graft wrote it."""
        entry, now = self.ledger.entries[path], self.now[path]
        is_link = (self.path / path).is_symlink()
        return now is not None and digest(now) == entry.wrote and is_link == (entry.link is not None)

    def kept(self, sha256: str) -> bytes:
        return read_blob(self.gitdir, sha256)

    def without_graft(self, path: str) -> bytes:
        """A grafted upstream file as it would be now, had it never been grafted.

        Raises:
            Collision: the user's edit and the graft share lines, or the file is gone.
        """
        entry, now = self.ledger.entries[path], self.now[path]
        assert entry.read is not None
        if now is None:
            raise Collision(
                "a file that carries the graft was deleted",
                where=path,
                remedy=f"restore it: git -C {self.upstream.path} checkout -- {path}, then run again",
            )
        if digest(now) == entry.wrote:
            return self.kept(entry.read)
        if digest(now) == entry.read:  # somebody restored upstream's file: the graft is gone from it already
            return now
        try:
            return unapply(self.kept(entry.read), self.kept(entry.wrote), now, where=path)
        except Collision:
            if committed(self.path, f"HEAD:{path}") == now:  # restored as well, after the pin moved under the graft
                return now
            raise

    def cut_loose(self, path: str, source: str) -> Collision:
        """The error for a link to an overlay that has become a file of its own; an editor that renames does that."""
        return Collision(
            "the link that graft made there is a file of its own now, and differs from what it pointed to",
            where=path,
            remedy=f"keep it: cp {self.upstream.path}/{path} {source}; or delete it; then run again",
        )
