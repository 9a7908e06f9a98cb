"""An upstream's history, read from its git directory alone: commits, and the tree of each without a checkout.

Every object comes through one ``git cat-file --batch`` process. Trees, texts, syntax and the names that a file defines
are remembered by object id, so that what two commits share is read once.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from graft.errors import BadInput, GraftError
from graft.fetch import local_place, rewritten
from graft.git import config_get, environment, git_text, has_commit, run
from graft.lock import Upstream
from graft.source import Source

_DEFINES = re.compile(rb"^([ \t]*)(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_FORMAT = "%H%x00%P%x00%aI%x00%an%x00%s"
_REGULAR = (b"100644", b"100755", b"100664")
_SOURCES = 160
"""Parsed files kept at once: the files of some packs, before and after, over several versions; about 1.5 GB at most."""

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True)
class Commit:
    """One commit, as much of it as a report needs.

    Attributes:
        id: all hex digits.
        parents: ids, the first is the branch it was made on.
        date: the author's, ISO 8601 with the zone.
        author: the author's name.
        subject: the first line of the message.
    """

    id: str
    parents: tuple[str, ...]
    date: str
    author: str
    subject: str

    @property
    def day(self) -> str:
        return self.date[:10]

    @property
    def moment(self) -> float:
        """Seconds since 1970, to order commits of different zones."""
        return datetime.fromisoformat(self.date.replace("Z", "+00:00")).timestamp()

    def __str__(self) -> str:
        return f"{self.id[:10]} {self.day} {self.subject}"

    def as_dict(self) -> dict[str, str]:
        return {"commit": self.id, "author_date": self.date, "author": self.author, "subject": self.subject}


class History:
    """A repository's commits and trees. Close it, or use it in a ``with``.

    Args:
        place: a bare repository, a git directory or a checkout.

    Raises:
        GraftError: there is no repository.
    """

    def __init__(self, place: Path) -> None:
        found = run(["rev-parse", "--absolute-git-dir"], cwd=place)
        if found.code:
            raise GraftError("not a git repository", where=str(place), remedy="name a clone with --git-dir DIR")
        self.git_dir = Path(os.fsdecode(found.out).rstrip("\n"))
        self._objects = _Objects(self.git_dir)
        self._trees: dict[str, dict[str, tuple[bytes, str]]] = {}
        self._names: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._sources: OrderedDict[bytes, Source] = OrderedDict()
        self._defines: dict[tuple[str, str], bool] = {}
        self.parsed = 0

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._objects.close()

    def resolve(self, ref: str) -> str:
        """The commit id that a name stands for.

        Raises:
            BadInput: it stands for none.
        """
        for name in (f"{ref}^{{commit}}", f"refs/remotes/origin/{ref}^{{commit}}"):
            found = run(["rev-parse", "--verify", "--quiet", "--end-of-options", name], cwd=self.git_dir)
            if not found.code:
                return found.out.decode().strip()
        raise BadInput(
            f"no commit is called {ref!r}",
            where=str(self.git_dir),
            remedy=f"fetch it there (git -C {self.git_dir} fetch --tags), or name another",
        )

    def has(self, commit: str) -> bool:
        """Whether a commit id is in this repository."""
        return has_commit(self.git_dir, commit)

    def commit(self, ref: str) -> Commit:
        return self._log(["--no-walk", self.resolve(ref)])[0]

    def ends(self, text: str) -> tuple[str, str]:
        """Both ends of a range ``A..B`` as commit ids; nothing for B means HEAD.

        Raises:
            BadInput: not a range, or an end that is no commit.
        """
        first, dots, last = text.partition("..")
        if not first or not dots or last.startswith("."):
            raise BadInput(f"{text!r} is no range of commits", where="--range", remedy="write A..B, as in v1.0..main")
        return self.resolve(first), self.resolve(last or "HEAD")

    def commits(self, span: str, paths: Sequence[str] = ()) -> list[Commit]:
        """The commits of ``A..B`` that touch one of ``paths`` (all without them), oldest first.

        A merge counts only where it differs from all of its parents: any other change in it was made by a commit of the
        branch that it brings in, and that one is listed.
        """
        first, last = self.ends(span)
        return self._log(["--full-history", "--topo-order", "--reverse", f"{first}..{last}", "--", *paths])

    def first_parents(self, good: str, bad: str) -> list[Commit]:
        """The commits that lead to ``bad`` on its own branch and are not in ``good``, oldest first."""
        return self._log(["--first-parent", "--topo-order", "--reverse", f"{self.resolve(good)}..{self.resolve(bad)}"])

    def contains(self, descendant: str, ancestor: str) -> bool:
        """Whether ``ancestor`` is ``descendant`` or among the commits that it was made from."""
        return run(["merge-base", "--is-ancestor", ancestor, descendant], cwd=self.git_dir).code == 0

    def tree(self, commit: str) -> GitTree:
        """The tree of a commit; ``commit`` is an id or a name."""
        return GitTree(self, commit)

    def parse(self, path: str, content: bytes) -> Source:
        """``Source(path, content)``, made once for each content; fit for ``rewrite(..., parse=...)``."""
        key = hashlib.sha1(content, usedforsecurity=False).digest()
        known = _remember(self._sources, key, lambda: self._parse(path, content), _SOURCES)
        if known.path == path:
            return known
        twin = copy.copy(known)  # the same syntax under its other name, for messages
        twin.path = path
        return twin

    def defines(self, path: str, blob: str, definition: str) -> bool:
        """Whether a file has a definition of that qualified name; where it is no Python, going by its indentation."""
        if (blob, definition) not in self._defines:
            found = frozenset(definition.split(".")) <= self.names(blob)
            try:
                found = found and bool(self.parse(path, self.blob(blob)).definitions(definition))
            except GraftError:  # the definition is there, and whoever needs it says that it cannot be read
                found = definition in self.qualified_names(blob)
            self._defines[blob, definition] = found
        return self._defines[blob, definition]

    def _parse(self, path: str, content: bytes) -> Source:
        self.parsed += 1
        return Source(path, content)

    def _log(self, words: Sequence[str]) -> list[Commit]:
        out = git_text(["-c", "log.showSignature=false", "log", "-z", f"--format={_FORMAT}", *words], cwd=self.git_dir)
        fields = out.split("\0") if out else []
        return [
            Commit(fields[at], tuple(fields[at + 1].split()), *fields[at + 2 : at + 5])
            for at in range(0, len(fields) - 4, 5)
        ]

    def entries(self, tree: str) -> dict[str, tuple[bytes, str]]:
        """Mode and object id of everything directly in a tree, by name."""
        if tree not in self._trees:
            content, found, at = self._objects.read(tree, b"tree"), {}, 0
            size = len(tree) // 2
            while at < len(content):
                end = content.index(b"\0", at)
                mode, _, name = content[at:end].partition(b" ")
                found[os.fsdecode(name)] = mode, content[end + 1 : end + 1 + size].hex()
                at = end + 1 + size
            self._trees[tree] = found
        return self._trees[tree]

    def blob(self, blob: str) -> bytes:
        """A file's bytes by object id."""
        return _remember(self._blobs, blob, lambda: self._objects.read(blob, b"blob"), 4 * _SOURCES)

    def names(self, blob: str) -> frozenset[str]:
        """The names that a file gives to functions and classes, at any depth."""
        return self._defined(blob)[0]

    def qualified_names(self, blob: str) -> frozenset[str]:
        """The same as ``Class.method``, by indentation alone: quick, and wrong only inside long strings."""
        return self._defined(blob)[1]

    def _defined(self, blob: str) -> tuple[frozenset[str], frozenset[str]]:
        if blob not in self._names:
            around: list[tuple[int, str]] = []
            plain, qualified = set(), set()
            for indent, name in _DEFINES.findall(self.blob(blob)):
                depth, word = len(indent.expandtabs()), name.decode("utf-8", "replace")
                while around and around[-1][0] >= depth:
                    around.pop()
                around.append((depth, word))
                plain.add(word)
                qualified.add(".".join(part for _, part in around))
            self._names[blob] = frozenset(plain), frozenset(qualified)
        return self._names[blob]

    def root(self, commit: str) -> str:
        """The tree id of a commit id."""
        header = self._objects.read(commit, b"commit").split(b"\n", 1)[0]
        return header.removeprefix(b"tree ").decode()


class GitTree:
    """The files of one commit; see ``graft.tree.Tree``. Symbolic links and submodules count as no files."""

    def __init__(self, history: History, commit: str) -> None:
        self.history = history
        self.commit = commit
        self._root = history.root(commit if re.fullmatch("[0-9a-f]{40,64}", commit) else history.resolve(commit))

    def blob(self, path: str) -> str | None:
        """The object id of a regular file, None where there is none."""
        *folders, name = path.split("/")
        tree = self._root
        for folder in folders:
            mode, tree = self.history.entries(tree).get(folder, (b"", ""))
            if mode != b"40000":
                return None
        mode, found = self.history.entries(tree).get(name, (b"", ""))
        return found if mode in _REGULAR else None

    def read(self, path: str) -> bytes | None:
        found = self.blob(path)
        return None if found is None else self.history.blob(found)

    def defining(self, name: str) -> list[str]:
        return self.homes([name])

    def homes(self, names: Sequence[str]) -> list[str]:
        """The Python files that give all of these names to functions or classes, sorted."""
        wanted = frozenset(names)
        return sorted(path for path, blob in self.modules() if wanted <= self.history.names(blob))

    def modules(self) -> Iterator[tuple[str, str]]:
        """Path and object id of every Python file."""
        pending = [("", self._root)]
        while pending:
            prefix, tree = pending.pop()
            for name, (mode, found) in self.history.entries(tree).items():
                if mode == b"40000":
                    pending.append((f"{prefix}{name}/", found))
                elif mode in _REGULAR and name.endswith(".py"):
                    yield prefix + name, found


class _Objects:
    """One ``git cat-file --batch`` that answers as long as it is asked."""

    def __init__(self, git_dir: Path) -> None:
        self.git_dir = git_dir
        self._process = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            cwd=git_dir,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment({"GIT_CEILING_DIRECTORIES": str(git_dir.parent)}),
        )

    def read(self, name: str, kind: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(name.encode() + b"\n")
            self._process.stdin.flush()
            words = self._process.stdout.readline().split()
        except BrokenPipeError:
            words = []
        if len(words) != 3 or words[1] != kind:
            raise GraftError(
                f"the {kind.decode()} {name} is not there",
                where=str(self.git_dir),
                remedy="the clone is partial, shallow or damaged: name a full one with --git-dir DIR",
            )
        size = int(words[2])
        content = self._process.stdout.read(size)
        self._process.stdout.read(1)
        return content

    def close(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()


def _remember(known: OrderedDict[_K, _V], key: _K, make: Callable[[], _V], most: int) -> _V:
    """``known[key]``, made where it is missing; what was not asked for longest is dropped."""
    if key in known:
        known.move_to_end(key)
        return known[key]
    known[key] = made = make()
    if len(known) > most:
        known.popitem(last=False)
    return made


def find(upstream: Upstream, root: Path, *, git_dir: Path | None = None) -> History:
    """The upstream's history: ``git_dir``, else the checkout's own, else the mirror that git is configured with.

    Raises:
        GraftError: none of them has it; says what to do.
    """
    if git_dir is not None:
        if not git_dir.is_dir():
            raise BadInput("not a directory", where=f"--git-dir {git_dir}", remedy="name a clone of the upstream")
        return History(git_dir)
    for place in (root / upstream.path, mirror_of(upstream.url, root)):
        if place is not None and is_whole(place):
            return History(place)
    raise GraftError(
        "its history is not on this machine",
        where=upstream.name,
        remedy=f"git clone --bare {upstream.url} DIR, then add --git-dir DIR",
    )


def is_whole(place: Path) -> bool:
    """Whether a place holds a repository with its whole history: neither shallow nor a partial clone."""
    if not (place / ".git").exists() and not (place / "HEAD").is_file():
        return False
    shallow = run(["rev-parse", "--is-shallow-repository"], cwd=place)
    if shallow.code or shallow.out.strip() != b"false":
        return False
    return config_get(place, "remote.origin.promisor") != "true"


def mirror_of(url: str, root: Path) -> Path | None:
    """The local directory that git's own configuration puts in the place of ``url``, None where there is none."""
    place = local_place(rewritten(url, root))
    return place if place is not None and place.is_dir() else None
