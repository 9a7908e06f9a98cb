"""Where the engine reads an upstream's files: a working tree, or whatever else can give bytes by path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from graft.errors import GraftError
from graft.git import read_blob, run


class Tree(Protocol):
    """What the engine needs to know of a tree; paths are relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """The file's bytes, None where there is no such file."""

    def defining(self, name: str) -> list[str]:
        """The Python files that hold a ``def`` or ``class`` of that name, sorted."""


class WorkTree:
    """A checkout's files as they lie on disk.

    Args:
        root: the checkout.
        tracked: the paths that git knows there, to look for a definition that moved.
        instead: contents to be read in place of what lies on disk (a file with its graft taken out); None hides a file.
    """

    def __init__(self, root: Path, tracked: list[str], instead: Mapping[str, bytes | None]) -> None:
        self.root = root
        self.tracked = tracked
        self.instead = instead

    def read(self, path: str) -> bytes | None:
        if path in self.instead:
            return self.instead[path]
        file = self.root / path
        if not file.is_file():
            return None
        if not file.resolve().is_relative_to(self.root.resolve()):
            raise GraftError("the path leads out of the checkout", where=path, remedy="remove the symbolic link")
        return file.read_bytes()

    def defining(self, name: str) -> list[str]:
        wanted = definition_of(name)
        found = (path for path in self.tracked if path.endswith(".py"))
        return sorted(path for path in found if (text := self.read(path)) is not None and wanted.search(text))


class CommitTree:
    """A commit's files, from the repository's objects; nothing is checked out."""

    def __init__(self, root: Path, commit: str) -> None:
        self.root = root
        self.commit = commit

    def read(self, path: str) -> bytes | None:
        return read_blob(self.root, f"{self.commit}:{path}")

    def defining(self, name: str) -> list[str]:
        wanted = f"^[ \t]*(async[ \t]+)?(def|class)[ \t]+{name}\\b"
        glob = {"GIT_LITERAL_PATHSPECS": "0"}
        found = run(["grep", "-lzE", wanted, self.commit, "--", "*.py"], cwd=self.root, env=glob)
        prefix = f"{self.commit}:"
        return sorted(os.fsdecode(path).removeprefix(prefix) for path in found.out.split(b"\0") if path)


def definition_of(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+" + re.escape(name).encode() + rb"\b", re.MULTILINE)
