"""Whether the files of a checkpoint are whole, as far as their formats tell, with Python's own library."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TORCH = (".pt", ".pth", ".bin")
OLD_TORCH = b"\x80\x02"
"""How a file begins that torch wrote before its archives: a pickle, without checksums."""
MOST_HEADER = 100 << 20
"""Bytes of a safetensors header at most (the format's own limit)."""

TRIED = 64 << 20
"""Bytes that are written to see whether a quota is used up."""


def files_of(path: Path) -> list[Path]:
    """All files of a checkpoint, which may be one itself."""
    return sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]


def damage(files: Iterable[Path]) -> str | None:
    """The first thing that is wrong with one of `files`, or None."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return next((found for found in pool.map(_damage, files) if found), None)


def _damage(path: Path) -> str | None:
    if path.suffix == ".json":
        return _json(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return _torch(path) if path.suffix in TORCH else None


def _json(path: Path) -> str | None:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{path} does not parse: {error}"
    if path.name.endswith(".index.json"):
        for name in sorted(set(read.get("weight_map", {}).values())):
            if not (path.parent / name).is_file():
                return f"{path} names {name}, which is not there"
    return None


def _safetensors(path: Path) -> str | None:
    """Header and length as the format has them: 8 bytes of length, JSON, data up to the last tensor's end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            return f"{path} is cut short: {size} bytes do not hold its header"
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{path} has a damaged header: {error}"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"{path} has {size} bytes where its header promises {expected}"
    if "-of-" in path.name:
        stem = path.name.split("-of-")[0].rpartition("-")[0]
        if not (path.parent / f"{stem}.safetensors.index.json").is_file():
            return f"{path} is a shard, and {stem}.safetensors.index.json is not there"
    return None


def _torch(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(2)
    if head == OLD_TORCH:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except FileNotFoundError:
        raise  # it has vanished, which is no damage
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        return f"{path} is cut short or damaged: {error}"
    return f"{path} is damaged: the checksum of {broken} does not hold" if broken else None


def odd_number(path: Path) -> str | None:
    """NaN, Infinity or -Infinity where a JSON file holds one."""
    odd: list[str] = []
    json.loads(path.read_text(encoding="utf-8"), parse_constant=odd.append)
    return odd[0] if odd else None


def full(path: Path, needed: int = 1 << 20) -> bool:
    """Whether `needed` bytes (or a file at all) find no room where `path` is, or will be.

    Asks the file system for free blocks and inodes, and writes at most TRIED bytes for a moment: a quota shows only so.
    """
    place = next(each for each in (path, *path.parents) if each.is_dir())
    free = os.statvfs(place)
    if free.f_bavail * free.f_frsize < needed or (free.f_files and not free.f_favail):
        return True
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for begin in range(0, min(needed, TRIED), 1 << 20):
                file.write(bytes(min(1 << 20, needed - begin)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        raise
    return False
