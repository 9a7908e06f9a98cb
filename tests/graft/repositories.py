"""Small repositories made on the spot, and the pins of them, for the tests of the sources."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

from graft.lock import Archive, Upstream

FILES: dict[str, tuple[str, bytes]] = {
    "README.md": ("100644", b"# a stand-in\r\nwith both line ends\n"),
    "src/pkg/model.py": ("100644", b"def forward(x):\n    return x\n"),
    "src/pkg/na\u00efve name.py": ("100644", b"pass\n"),
    "scripts/run.sh": ("100755", b"#!/bin/sh\nexit 0\n"),
    "link.md": ("120000", b"README.md"),
    ".gitattributes": ("100644", b"* text=auto\nREADME.md -text\n"),
    ".gitignore": ("100644", b"*.log\n"),
    "kept.log": ("100644", b"tracked although ignored\n"),
    "assets/big.bin": ("100644", bytes(range(256)) * 40),
}


def sh(*args: str, cwd: Path, input: bytes | None = None) -> str:
    """Plain git, not by way of the engine, so that expectations come from elsewhere."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
        "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
    }
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *identity, *args], cwd=cwd, input=input, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def make_repository(place: Path, *, later: bool = False) -> tuple[str, str]:
    """A repository with two commits (three with ``later``) on ``main``; returns the second's commit and tree id."""
    place.mkdir(parents=True)
    sh("init", "-q", "-b", "main", cwd=place)
    for name, (mode, content) in FILES.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if mode == "120000":
            file.symlink_to(content.decode())
            continue
        file.write_bytes(content)
        file.chmod(0o755 if mode == "100755" else 0o644)
    sh("add", "-A", "-f", cwd=place)
    sh("commit", "-qm", "first", cwd=place)
    (place / "src/pkg/model.py").write_bytes(b"def forward(x):\n    return x + 1\n")
    sh("commit", "-qam", "second", cwd=place)
    commit, tree = sh("rev-parse", "HEAD", "HEAD^{tree}", cwd=place).split()
    if later:
        (place / "README.md").write_bytes(b"later\n")
        sh("commit", "-qam", "third", cwd=place)
    return commit, tree


def pin(place: Path, commit: str, tree: str, *, archive: Archive | None = None, url: str | None = None) -> Upstream:
    """The lock's entry for a repository made here."""
    return Upstream(
        name="Tool",
        url=url or place.as_uri(),
        ref="main",
        commit=commit,
        tree=tree,
        license="MIT",
        path="upstreams/Tool",
        python=">=3.10",
        packs=(),
        archive=archive,
    )


def make_archive(
    place: Path, commit: str, file: Path, *, extra: list[tuple[tarfile.TarInfo, bytes]] | None = None
) -> Archive:
    """The source archive a registry would have of ``commit``: the tree below one directory, and a PKG-INFO."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        listed = sh("ls-tree", "-r", "-z", commit, cwd=place).split("\0")
        for entry in filter(None, listed):
            about, name = entry.split("\t")
            mode, _, blob = about.split()
            content = subprocess.run(
                ["git", "cat-file", "blob", blob], cwd=place, capture_output=True, check=True
            ).stdout
            info = tarfile.TarInfo(f"tool-1.0/{name}")
            if mode == "120000":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content.decode(), 0o777
                tar.addfile(info)
                continue
            info.mode, info.size = int(mode[-3:], 8), len(content)
            tar.addfile(info, io.BytesIO(content))
        metadata = tarfile.TarInfo("tool-1.0/PKG-INFO")
        metadata.size = 9
        tar.addfile(metadata, io.BytesIO(b"Name: x\n\n"))
        for info, content in extra or []:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    body = subprocess.run(["git", "cat-file", "commit", commit], cwd=place, capture_output=True, check=True).stdout
    return Archive(
        distribution="Some.Tool",
        version="1.0",
        file=file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size=file.stat().st_size,
        without=("PKG-INFO",),
        commit_object=body,
    )
