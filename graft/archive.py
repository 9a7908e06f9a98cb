"""A source archive made into the checkout of the pin; nothing of the upstream is run on the way.

The file counts only when its SHA-256 is the lock's. Its members go straight into git objects, and only git writes
files, after the tree id is proven.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path, PurePosixPath

from graft.errors import BadInput
from graft.git import NO_HOOKS, git, git_text
from graft.lock import Archive, Upstream


class Unproven(BadInput):
    """A source answered, but what it has is not what the lock says: the lock is wrong, or the source is."""


def verify(file: Path, archive: Archive) -> None:
    """Check size and SHA-256 of a file against the lock.

    Raises:
        Unproven: they differ.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != archive.sha256:
        raise Unproven(
            f"SHA-256 is {digest.hexdigest()}, the lock says {archive.sha256}",
            where=file.name,
            remedy=f"take that {file.name} away, or correct `sha256` in the lock",
        )


def unpack(file: Path, upstream: Upstream, archive: Archive, checkout: Path) -> None:
    """Make ``checkout``, a fresh repository without commits, hold the pin: objects, shallow mark, HEAD at the commit.

    The working tree stays empty; the caller checks it out.

    Raises:
        Unproven: wrong hash, an unsafe or odd member, a tree or commit other than the lock's.
    """
    verify(file, archive)
    try:
        listing = _import(file, archive, checkout)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Unproven(f"cannot be read as a source archive: {error}", where=file.name) from error
    git([*NO_HOOKS, "update-index", "-z", "--index-info"], cwd=checkout, input=listing)
    tree = git_text(["write-tree"], cwd=checkout)
    if tree != upstream.tree:
        raise Unproven(
            f"holds the tree {tree}, the lock says {upstream.tree}",
            where=file.name,
            remedy="correct `tree` in the lock, or take its archive out",
        )
    commit = git_text(["hash-object", "-t", "commit", "-w", "--stdin"], cwd=checkout, input=archive.commit_object)
    if commit != upstream.commit:
        raise Unproven(f"the commit object is {commit}, the lock pins {upstream.commit}", where=upstream.name)
    (checkout / ".git" / "shallow").write_text(commit + "\n", encoding="ascii")
    git(["update-ref", "--no-deref", "HEAD", commit], cwd=checkout)


def _import(file: Path, archive: Archive, checkout: Path) -> bytes:
    """Write each member as a git blob; returns the index entries for ``update-index -z --index-info``."""
    left = set(archive.without)
    names: list[tuple[str, str]] = []
    seen: set[str] = set()
    stream: list[bytes] = []
    with tarfile.open(file, "r:gz") as tar:
        for member in tar:
            path = _inside(member, file.name)
            if path is None:
                continue
            if path in left:
                left.discard(path)
                continue
            if path in seen:
                raise Unproven(f"two members are called {path}", where=file.name)
            seen.add(path)
            if member.issym():
                mode, content = "120000", os.fsencode(member.linkname)
            else:
                body = tar.extractfile(member)
                assert body is not None
                mode, content = "100755" if member.mode & 0o100 else "100644", body.read()
            names.append((mode, path))
            stream.append(b"blob\nmark :%d\ndata %d\n%b\n" % (len(names), len(content), content))
    if left:
        raise Unproven(f"lacks {', '.join(sorted(left))}, which the lock leaves out", where=file.name)
    stream.append(b"done\n")
    marks = checkout / ".git" / "graft-marks"
    git(["fast-import", "--quiet", "--done", f"--export-marks={marks}"], cwd=checkout, input=b"".join(stream))
    ids = dict(line.split() for line in marks.read_text(encoding="ascii").splitlines())
    marks.unlink()
    entries = (f"{mode} {ids[f':{number}']}\t{path}\0" for number, (mode, path) in enumerate(names, 1))
    return b"".join(os.fsencode(entry) for entry in entries)


def _inside(member: tarfile.TarInfo, file: str) -> str | None:
    """The member's path below the archive's one top directory; None for a directory."""
    parts = PurePosixPath(member.name).parts
    odd = member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name
    if odd or any(part.casefold().rstrip(" .") == ".git" for part in parts):
        raise Unproven(f"unsafe member {member.name!r}", where=file)
    if member.isdir():
        return None
    if not (member.isreg() or member.issym()) or len(parts) < 2:
        raise Unproven(f"member {member.name!r} is not a file below one top directory", where=file)
    if member.issym():
        target = os.path.normpath(os.path.join(*parts[1:-1], member.linkname))
        if os.path.isabs(member.linkname) or target.split("/")[0] == "..":
            raise Unproven(f"member {member.name!r} is a link out of the tree", where=file)
    return "/".join(parts[1:])
