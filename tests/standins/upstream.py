"""A stand-in for an upstream: the repository ``tool``, and a second one, ``other``, so that one may fail alone."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TOOL: dict[str, bytes] = {
    ".gitignore": b"*.pyc\n__pycache__/\n*.log\n",
    "README.md": b"# tool\n",
    "src/tool/__init__.py": b"",
    # LF, two functions and a class: most edits land here.
    "src/tool/model.py": b'''"""The model."""

import math


def load(config):
    model = Model(config.size)
    # compiled last
    model.ready = True
    return model


def halve(value):
    return value / 2


class Model:
    def __init__(self, size):
        self.size = size

    def forward(self, x):
        scaled = x * math.sqrt(self.size)
        return scaled
''',
    # CR LF throughout.
    "src/tool/config.py": (
        b"from dataclasses import dataclass\r\n\r\n\r\n@dataclass\r\nclass Arguments:\r\n"
        b"    size: int = 4\r\n    rate: float = 0.1\r\n\r\n    def check(self):\r\n        return self.size > 0\r\n"
    ),
    # Tabs.
    "src/tool/train.py": (
        b"def train(model, steps):\n\tfor step in range(steps):\n\t\tloss = model.forward(step)\n"
        b"\t\treport(step, loss)\n\treturn model\n\n\ndef report(step, loss):\n\tprint(step, loss)\n"
    ),
    # No line end at the end of the file.
    "src/tool/data.py": b"def rows(path):\n    names = []\n    for line in open(path):\n        names.append(line)\n"
    b"    return names\n\n\nTABLE = rows",
    "scripts/run.sh": b"#!/bin/sh\nexec python -m tool\n",
}

OTHER: dict[str, bytes] = {
    "README.md": b"# other\n",
    "other/core.py": b"def start(name):\n    print(name)\n    return name\n",
}


@dataclass(frozen=True)
class Pin:
    """A repository made here: where it is, and the commit and tree id of what was pinned."""

    place: Path
    commit: str
    tree: str


def sh(*args: str, cwd: Path, env: dict[str, str] | None = None, input: str = "") -> str:
    """Plain git, not by way of the engine, so that expectations come from elsewhere."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
        "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
        **(env or {}),
    }
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *identity, *args], cwd=cwd, capture_output=True, check=False, env=clean, input=input.encode()
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def make_upstream(place: Path, files: dict[str, bytes]) -> Pin:
    """A repository with one commit on ``main``."""
    place.mkdir(parents=True)
    sh("init", "-q", "-b", "main", cwd=place)
    commit_files(place, files)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    return Pin(place, commit, tree)


def commit_files(place: Path, files: dict[str, bytes]) -> str:
    """Another commit with these contents; returns its id."""
    for name, content in files.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755 if name.endswith(".sh") else 0o644)
    sh("add", "-A", cwd=place)
    sh("commit", "-qm", "work", cwd=place)
    return sh("rev-parse", "HEAD", cwd=place)


def work_tree_id(checkout: Path, index: Path) -> str:
    """The git tree id of a checkout's files as they lie there, ignored ones included.

    Files that the source of the checkout did not have, which its index says (`skip-worktree`), count as they were
    committed; one of them that is there after all counts as it lies there.

    Args:
        index: a file of no further use, so that the checkout's own index stays as it is.
    """
    index.unlink(missing_ok=True)
    env = {"GIT_INDEX_FILE": str(index)}
    absent = [line[2:] for line in sh("ls-files", "-z", "-t", "-s", cwd=checkout).split("\0") if line.startswith("S ")]
    gone = [line for line in absent if not (checkout / line.split("\t")[1]).exists()]
    sh("add", "-A", "-f", ".", cwd=checkout, env=env)
    sh("update-index", "-z", "--index-info", cwd=checkout, env=env, input="".join(f"{line}\0" for line in gone))
    return sh("write-tree", "--missing-ok", cwd=checkout, env=env)
