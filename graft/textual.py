"""What textual tools make of the same method: ``git apply``, ``git apply --3way`` and ``patch -F3`` at each commit.

They get the diff that the packs make at the pin, the edited upstream files only. Nothing is written into the upstream's
repository: new objects go to a temporary store that has the upstream's as its alternate. (Of an object that is in both,
git renews the time stamp.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from graft.errors import GraftError
from graft.git import failed, git, git_text, run
from graft.history import GitTree, History

APPLY, THREE_WAY, PATCH = "git apply", "git apply --3way", "patch -F3"
TOOLS = (APPLY, THREE_WAY, PATCH)

# A user's own settings must not make the tools more or less lenient than they are.
_PLAIN = ("-c", "apply.whitespace=nowarn", "-c", "apply.ignoreWhitespace=no", "-c", "core.autocrlf=false",
          "-c", "rerere.enabled=false", "-c", "merge.conflictStyle=merge")  # fmt: skip


class Textual:
    """The three tools with one diff. Close it, or use it in a ``with``.

    Args:
        history: the upstream's.
        pin: the commit that the diff is made at.
        contents: the edited upstream files as the packs make them there.

    Raises:
        GraftError: ``patch`` is not installed.
    """

    def __init__(self, history: History, pin: str, contents: Mapping[str, bytes]) -> None:
        if shutil.which("patch") is None:
            raise GraftError("patch is not installed", remedy="apt-get install patch, or leave it out: --no-textual")
        self.history = history
        self._folder = tempfile.TemporaryDirectory(prefix="graft-textual-")
        self._root = Path(self._folder.name)
        (self._root / "objects").mkdir()
        objects = git_text(["rev-parse", "--git-path", "objects"], cwd=history.git_dir)
        self._env = {
            "GIT_INDEX_FILE": str(self._root / "index"),
            "GIT_OBJECT_DIRECTORY": str(self._root / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((history.git_dir / objects).resolve()),
        }
        self.paths = tuple(sorted(contents))
        self._diff = self._root / "method.diff"
        self._diff.write_bytes(self._made(pin, contents))

    def __enter__(self) -> Textual:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._folder.cleanup()

    def _git(self, *words: str, input: bytes | None = None) -> bytes:
        return git([*_PLAIN, *words], cwd=self.history.git_dir, input=input, env=self._env)

    def _made(self, pin: str, contents: Mapping[str, bytes]) -> bytes:
        """The diff as git prints it, with whole object ids, which ``--3way`` needs."""
        self._git("read-tree", pin)
        for path, content in contents.items():
            blob = self._git("hash-object", "-w", "--stdin", input=content).decode().strip()
            mode = self._git("ls-files", "--stage", "--", path).split(b" ", 1)[0].decode()
            self._git("update-index", "--cacheinfo", f"{mode},{blob},{path}")
        tree = self._git("write-tree").decode().strip()
        return self._git("diff-tree", "-r", "-p", "--full-index", "--no-renames", "--no-ext-diff", pin, tree)

    @property
    def diff(self) -> str:
        return self._diff.read_text(encoding="utf-8", errors="replace")

    def at(self, commit: str) -> dict[str, dict[str, bytes] | None]:
        """For each tool the files as it leaves them at ``commit``; None where it ends with a conflict or a reject."""
        return {
            APPLY: self._apply(commit),
            THREE_WAY: self._apply(commit, "--3way"),
            PATCH: self._patch(self.history.tree(commit)),
        }

    def _apply(self, commit: str, *how: str) -> dict[str, bytes] | None:
        self._git("read-tree", commit)
        words = [*_PLAIN, "apply", "--cached", *how, str(self._diff)]
        done = run(words, cwd=self.history.git_dir, env=self._env)
        if done.code not in (0, 1):  # 1 is "does not apply"; 128 is a machine that cannot
            raise failed(words, self.history.git_dir, done)
        if done.code:
            return None
        return {path: self._git("cat-file", "blob", f":0:{path}") for path in self._listed()}

    def _listed(self) -> list[str]:
        named = self._git("ls-files", "-z", "--", *self.paths)
        return [os.fsdecode(path) for path in named.split(b"\0") if path]

    def _patch(self, tree: GitTree) -> dict[str, bytes] | None:
        place = self._root / "files"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for path in self.paths:
            content = tree.read(path)
            if content is not None:
                file = place / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        words = ["patch", "-p1", "-F3", "--force", "--silent", "--reject-file=-", "--no-backup-if-mismatch"]
        words += ["-i", str(self._diff)]
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TMPDIR": str(self._root)}
        done = subprocess.run(words, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False)
        if done.returncode not in (0, 1):
            raise GraftError(f"patch failed: {done.stderr.decode('utf-8', 'replace').strip()}", where=tree.commit)
        if done.returncode:
            return None
        return {path: (place / path).read_bytes() for path in self.paths if (place / path).is_file()}
