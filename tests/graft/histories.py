"""Small upstreams with a history, made on the spot, for the tests of what upstreams do to packs."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.graft.repositories import sh

TRAIN = """\
import os


def prepare(cfg):
    return cfg


def train(cfg, data):
    model = build(cfg)
    model = wrap(model, cfg)
    for batch in data:
        loss = model(batch)
        loss.backward()
    return model
"""

PACK = """\
from graft.pack import In, Pack, add_import, after, before, ensure

PACK = Pack(
    upstream="Tool",
    name="hook",
    why="for the tests",
    edits=[
        In(
            "src/train.py",
            "train",
            add_import("from hooks import attach, seal", why="the hooks"),
            after("model = wrap(model, cfg)", add="attach(model)", why="the wrapped model"),
            before("return model", add="seal(model)", why="at the end"),
        ),
    ],
    ensures=[ensure("src/train.py", "train", "attach(...)", why="it is hooked")],
)
"""


class Upstream:
    """A repository that is written commit by commit."""

    def __init__(self, place: Path, files: dict[str, str] | None = None) -> None:
        self.place = place
        place.mkdir(parents=True)
        sh("init", "-q", "-b", "main", cwd=place)
        self.first = self.commit(files or {"src/train.py": TRAIN, "README.md": "a tool\n"}, "first")

    def commit(self, files: dict[str, str | None], subject: str) -> str:
        """Writes the files (None deletes one) and commits; the commit's id."""
        for name, text in files.items():
            file = self.place / name
            if text is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
        sh("add", "-A", cwd=self.place)
        sh("commit", "-qm", subject, "--allow-empty", cwd=self.place)
        return self.head

    def change(self, old: str, new: str, subject: str, *, path: str = "src/train.py") -> str:
        """Replaces a piece of a file that it holds once, and commits."""
        text = (self.place / path).read_text(encoding="utf-8")
        assert text.count(old) == 1
        return self.commit({path: text.replace(old, new)}, subject)

    def move(self, old: str, new: str, subject: str) -> str:
        text = (self.place / old).read_text(encoding="utf-8")
        return self.commit({old: None, new: text}, subject)

    def branch(self, name: str, at: str) -> None:
        sh("checkout", "-q", "-B", name, at, cwd=self.place)

    def switch(self, name: str) -> None:
        sh("checkout", "-q", name, cwd=self.place)

    def merge(self, name: str, subject: str) -> str:
        sh("merge", "-q", "--no-ff", "-m", subject, name, cwd=self.place)
        return self.head

    @property
    def head(self) -> str:
        return sh("rev-parse", "HEAD", cwd=self.place)


def project(root: Path, upstream: Upstream, pin: str, *, packs: dict[str, str] | None = None) -> Path:
    """A project that pins ``upstream`` at ``pin`` and carries the packs; nothing is fetched."""
    packs = {"hook": PACK} if packs is None else packs
    root.mkdir(parents=True, exist_ok=True)
    tree = sh("rev-parse", f"{pin}^{{tree}}", cwd=upstream.place)
    names = ", ".join(f'"{name}"' for name in packs)
    lock = f"""\
        format = 1

        [upstream.Tool]
        url = "{upstream.place.as_uri()}"
        ref = "main"
        commit = "{pin}"
        tree = "{tree}"
        license = "MIT"
        path = "upstreams/Tool"
        python = ">=3.10"
        packs = [{names}]
        """
    (root / "upstream.lock").write_text(textwrap.dedent(lock), encoding="utf-8")
    for name, text in packs.items():
        file = root / "patches" / "Tool" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root
