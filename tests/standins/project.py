"""A project folder like this repository: a lock, packs, overlays, and the verbs run in it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.cli import main
from tests.standins.packs import FILES
from tests.standins.upstream import Pin, sh, work_tree_id

REPOSITORY = Path(__file__).resolve().parents[2]

MODEL = "tool/src/tool/model.py"
"""The file of tool with most of the edits."""
HOOKS = "tool/src/tool/speed/hooks.py"
"""An overlay file where it lands, and below it where it comes from."""
SOURCE = "overlays/tool/src/tool/speed/hooks.py"


@dataclass(frozen=True)
class Ran:
    """What one command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON object that it must be."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        return self.out + self.err


def table(name: str, pin: Pin, packs: list[str], **changes: object) -> str:
    """An upstream's table in the lock; ``changes`` replace or add keys, None takes one out."""
    values: dict[str, object] = {
        "url": pin.place.as_uri(),
        "ref": "main",
        "commit": pin.commit,
        "tree": pin.tree,
        "license": "MIT",
        "path": f"upstreams/{name}",
        "python": ">=3.10",
        "packs": packs,
        **changes,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    return f"\n[upstream.{name}]\n" + "\n".join(lines) + "\n"


class Project:
    """A stand-in project at ``root``; ``pins`` are its upstreams by name."""

    def __init__(self, root: Path, pins: Mapping[str, Pin]) -> None:
        self.root, self.pins = root, pins

    @classmethod
    def make(cls, root: Path, pins: Mapping[str, Pin]) -> Project:
        root.mkdir(parents=True)
        project = cls(root, pins)
        for name, text in FILES.items():
            project.write(name, text)
        project.lock(tool=["speed", "notes"], other=["tiny"])
        project.write(".gitignore", "upstreams/\n")
        sh("init", "-q", "-b", "main", cwd=root)
        return project

    def lock(self, **packs: list[str]) -> None:
        """Writes a lock with these upstreams and their packs."""
        tables = [table(name, self.pins[name], names) for name, names in packs.items()]
        self.write("upstream.lock", "format = 1\n" + "".join(tables))

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def run(self, *arguments: str) -> Ran:
        """``python apply.py`` in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(self.root, arguments)
            except SystemExit as stop:  # argparse, on an argument that it cannot read
                code = stop.code if isinstance(stop.code, int) else 1
        return Ran(int(code), out.getvalue(), err.getvalue())

    def ok(self, *arguments: str) -> Ran:
        ran = self.run(*arguments)
        assert ran.code == 0, ran.said
        return ran

    def command(self, *arguments: str) -> list[str]:
        """``python apply.py`` as a command line: a copy of this repository's apply.py, which finds its own lock."""
        shutil.copy(REPOSITORY / "apply.py", self.root / "apply.py")
        return [sys.executable, "apply.py", *arguments]

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """``python apply.py`` as a process of its own."""
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **options.pop("env", {})}
        return subprocess.Popen(self.command(*arguments), cwd=self.root, env=env, **options)

    def at(self, name: str) -> Path:
        """A checkout (``tool``) or a file in it (``tool/src/tool/model.py``)."""
        return self.root / "upstreams" / name

    def read(self, name: str) -> bytes:
        return self.at(name).read_bytes()

    def edit(self, name: str, old: bytes, new: bytes) -> bytes:
        """Replaces bytes that stand once in a file of a checkout; returns the new content."""
        before = self.read(name)
        assert before.count(old) == 1, before
        self.at(name).write_bytes(before.replace(old, new))
        return self.read(name)

    def gitdir(self, name: str) -> Path:
        return Path(sh("rev-parse", "--absolute-git-dir", cwd=self.at(name)))

    def tree(self, name: str = "tool") -> str:
        return work_tree_id(self.at(name), self.root.parent / f"{self.root.name}-{name}.index")

    def is_pristine(self, name: str = "tool") -> bool:
        """Whether a checkout is the pin and nothing else: same tree, git sees no change, no file or folder is left."""
        status = sh("status", "--porcelain", "--ignored", "--untracked-files=all", cwd=self.at(name))
        folders = [place for place, names, files in os.walk(self.at(name)) if not names and not files]
        return self.tree(name) == self.pins[name].tree and status == "" and not folders


def contents(project: Project, names: dict[str, bytes], name: str = "tool") -> dict[str, bytes]:
    return {path: project.read(f"{name}/{path}") for path in names}


def everything(top: Path) -> dict[str, str]:
    """Every file below ``top`` with the hash of its content, links with their target, folders by name.

    Left out is what git and the lock against a second command change by being looked at.
    """
    found: dict[str, str] = {}
    for place, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(place, name)
            shown = path.relative_to(top).as_posix()
            if name in ("index", "lock") and ".git/" in shown:
                continue
            if path.is_symlink():
                found[shown] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                found[shown] = "folder"
            else:
                found[shown] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


def stamps(top: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time in nanoseconds of every file below ``top``."""
    files = [path for path in sorted(top.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(top)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
