"""The new files of a pack: what lies below ``overlays/``, and where in a checkout each of them lands."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from graft.errors import BadInput
from graft.pack import Pack

_EXECUTABLE = 0o755
_PLAIN = 0o644
_SKIPPED = {"__pycache__", ".DS_Store", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class OverlayFile:
    """One new file.

    Attributes:
        source: the file in this project, relative to its root, with ``/``.
        path: where it lands, relative to the checkout.
        content: its bytes.
        mode: 0o644 or 0o755.
        pack: the pack that asks for it.
    """

    source: str
    path: str
    content: bytes
    mode: int
    pack: str


@dataclass(frozen=True)
class Coming:
    """What a source under ``overlays/`` is about to become: its bytes, and 0o644 or 0o755."""

    content: bytes
    mode: int


NOTHING: Mapping[str, Coming] = MappingProxyType({})


def mode_of(file: Path) -> int:
    """0o755 for a file that its owner may run, else 0o644: git tells no more apart."""
    return _EXECUTABLE if file.exists() and file.stat().st_mode & stat.S_IXUSR else _PLAIN


def overlay_files(root: Path, pack: Pack, coming: Mapping[str, Coming] = NOTHING) -> list[OverlayFile]:
    """Every file of a pack's overlays, sorted by where it lands.

    Args:
        coming: sources that are about to be written.

    Raises:
        BadInput: a source is missing, is or holds a symbolic link, or two land at one path.
    """
    own = {f"overlays/{pack.upstream}/{path}": path for path in pack.overlays}
    shared = {f"overlays/common/{package}": target for package, target in pack.common.items()}
    found: dict[str, OverlayFile] = {}
    for source, target in {**own, **shared}.items():
        fresh = [name for name in coming if name == source or name.startswith(f"{source}/")]
        files = _files(root, source, pack) if (root / source).exists() or not fresh else ()
        there = [file.relative_to(root).as_posix() for file in files]
        for relative in sorted({*there, *fresh}):
            path = str(PurePosixPath(target) / PurePosixPath(relative).relative_to(source))
            if path in found and found[path].source != relative:
                raise BadInput(
                    f"{found[path].source} and {relative} land at one path, {path}",
                    where=pack.where,
                    remedy="name one of the two",
                )
            file = root / relative
            is_to_be = coming[relative] if relative in coming else Coming(file.read_bytes(), mode_of(file))
            found[path] = OverlayFile(relative, path, is_to_be.content, is_to_be.mode, pack.name)
    return [found[path] for path in sorted(found)]


def _files(root: Path, source: str, pack: Pack) -> Iterator[Path]:
    top = root / source
    for part in [top, *top.parents]:
        if part == root:
            break
        if part.is_symlink():
            raise BadInput("an overlay must not be a symbolic link", where=str(part), remedy="put the files there")
    if top.is_file():
        yield top
        return
    if not top.is_dir():
        raise BadInput(
            f"there is no overlay {source}", where=pack.where, remedy=f"write it, or take it out of {pack.name}"
        )
    count = 0
    for folder, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for name in sorted([*names, *files]):
            file = Path(folder, name)
            if file.is_symlink():
                raise BadInput(
                    "an overlay must not hold a symbolic link", where=str(file), remedy="put the file itself there"
                )
            if name in files and not file.is_file():
                raise BadInput(
                    "an overlay must not hold a pipe, socket or device", where=str(file), remedy="take it away"
                )
            if name in files and name not in _SKIPPED and not name.endswith((".pyc", "~", ".swp")):
                count += 1
                yield file
    if not count:
        raise BadInput(f"the overlay {source} holds no file", where=pack.where, remedy="write one, or take it out")
