"""What a stage depends on, as digests: files and folders by content, a checkout by commit and working tree."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SETTLED = 2.0
"""Seconds after which a file's times tell a later change: within the clock's grain two writes may look alike."""

NO_SOURCE = ("__pycache__", "site-packages", ".git", ".venv", "venv", "wandb", "rollouts", "runs")


class Digests:
    """SHA-256 of files and folders; a file whose size, times and inode are unchanged is not read again.

    `memory` is the JSON file that remembers them between runs, so that checkpoints of many GB are read once.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self.memory = memory
        self._known: dict[str, list[object]] = {}
        if memory is not None and memory.exists():
            try:
                self._known = json.loads(memory.read_text(encoding="utf-8"))
            except ValueError:
                # A memory that cannot be read costs time, not truth: every file is read again.
                self._known = {}

    def file(self, path: Path) -> str:
        """SHA-256 (hex) of the content of `path`."""
        key = str(path.resolve())
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        known = self._known.get(key)
        if known is not None and known[:4] == stamp:
            return str(known[4])
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while block := source.read(1 << 22):
                digest.update(block)
        self._known.pop(key, None)
        if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED:
            self._known[key] = [*stamp, digest.hexdigest()]
        return digest.hexdigest()

    def of(self, path: Path, without: Sequence[str] = ()) -> str:
        """SHA-256 (hex) of a file, or of all files below a folder with their relative names.

        Files whose name fits a pattern of `without` do not count. Raises FileNotFoundError where nothing is there.
        """
        if not path.is_dir():
            return self.file(path)
        digest = hashlib.sha256()
        for name in files_below(path):
            if any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in without):
                continue
            digest.update(f"{name}\0{self.file(path / name)}\0".encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Keeps what was learned; no memory, nothing to do."""
        if self.memory is not None:
            write_whole(self.memory, json.dumps(self._known))


def files_below(folder: Path) -> list[str]:
    """Relative names of all files below `folder`, sorted; links to folders are followed, byte code is left out."""
    names = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        names += [str((Path(base) / name).relative_to(folder)) for name in files]
    return sorted(names)


def write_whole(path: Path, text: str) -> None:
    """Writes `path` in one step: a reader, or a run after a kill, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def git(folder: Path, *arguments: str) -> str | None:
    """What git says in `folder`, or None where it refuses (no repository of its own, no commit)."""
    run = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    return run.stdout if run.returncode == 0 else None


def _own_repository(folder: Path) -> bool:
    top = git(folder, "rev-parse", "--show-toplevel")
    return top is not None and Path(top.strip()).resolve() == folder.resolve()


def commit_of(checkout: Path) -> tuple[str, str]:
    """Commit and tree id of HEAD, or two empty strings where `checkout` is no repository of its own."""
    if not _own_repository(checkout):
        return "", ""
    found = git(checkout, "rev-parse", "HEAD", "HEAD^{tree}")
    commit, tree = found.split() if found else ("", "")
    return commit, tree


def new_sources(checkout: Path) -> list[Path]:
    """Python files that git does not track: what a graft added. All Python files where there is no repository."""
    if _own_repository(checkout):
        listing = git(
            checkout, "ls-files", "-z", "--others", *[f"--exclude={name}/" for name in NO_SOURCE], "--", "*.py"
        )
        names = [Path(name) for name in (listing or "").split("\0") if name]
    else:
        names = [Path(name) for name in files_below(checkout) if name.endswith(".py")]
    return sorted(checkout / name for name in names if not set(NO_SOURCE) & set(name.parts))


def changed_files(checkout: Path) -> list[Path]:
    """Tracked files that differ from HEAD, those that are gone included; none where there is no commit.

    Their names are asked for and not their differences, which git cannot show where it lacks the old content.
    """
    if not commit_of(checkout)[0]:
        return []
    listing = git(checkout, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    if listing is None:
        raise OSError(f"{checkout}: git cannot say which files differ from HEAD; see `git -C {checkout} status`")
    return sorted(checkout / name for name in listing.split("\0") if name)


def checkout_state(checkout: Path, digests: Digests) -> str:
    """One SHA-256 (hex) over HEAD, what differs from it in the working tree, and Python files that are not tracked.

    Raises FileNotFoundError where `checkout` is no folder, OSError where git fails.
    """
    if not checkout.is_dir():
        raise FileNotFoundError(checkout)
    digest = hashlib.sha256("\0".join(commit_of(checkout)).encode())
    for path in [*changed_files(checkout), *new_sources(checkout)]:
        content = digests.file(path) if path.is_file() else "absent"
        digest.update(f"\0{path.relative_to(checkout)}\0{content}".encode())
    return digest.hexdigest()
