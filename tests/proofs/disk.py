"""A folder as a value: taken, compared and put back, without copying it for every case."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Entry: TypeAlias = tuple[str, int, bytes]
"""``file``, permission bits and bytes; ``link``, 0 and target; ``folder``, permission bits and nothing."""
Disk: TypeAlias = Mapping[str, Entry]


_GITS_OWN = ("objects", "hooks", "info", "branches")
"""Folders of git's that no set of files is ever part of; what ends up in the first is only ever added to."""


def take(root: Path) -> dict[str, Entry]:
    """Everything below ``root`` by relative path, but for what is git's own."""
    found: dict[str, Entry] = {}
    _walk(str(root), "", found)
    return found


def _walk(place: str, shown: str, found: dict[str, Entry]) -> None:
    with os.scandir(place) as entries:
        for entry in entries:
            name = shown + entry.name
            if entry.is_symlink():
                found[name] = ("link", 0, os.fsencode(os.readlink(entry.path)))
            elif entry.is_dir():
                if entry.name in _GITS_OWN and ".git/" in f"{name}/":
                    continue
                found[name] = ("folder", stat.S_IMODE(entry.stat().st_mode), b"")
                _walk(entry.path, f"{name}/", found)
            else:
                with open(entry.path, "rb") as file:
                    found[name] = ("file", stat.S_IMODE(entry.stat().st_mode), file.read())


def put_back(root: Path, wanted: Disk) -> None:
    """Makes everything below ``root`` what ``take`` found there; what is so already is not touched."""
    now = take(root)
    for name in sorted(now.keys() - wanted.keys(), reverse=True) + [
        name for name in now.keys() & wanted.keys() if now[name][0] != wanted[name][0]
    ]:
        path = root / name
        if now[name][0] == "folder":
            shutil.rmtree(path)
        else:
            path.unlink()
        del now[name]
    for name in sorted(wanted):
        kind, mode, content = wanted[name]
        if now.get(name) == wanted[name]:
            continue
        path = root / name
        if kind == "link":
            path.unlink(missing_ok=True)
            os.symlink(os.fsdecode(content), path)
            continue
        if kind == "folder":
            path.mkdir(exist_ok=True)
        else:
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        path.chmod(mode)


def visible(disk: Disk, *, pins: bool = False) -> dict[str, Entry]:
    """What a user and graft see of a project: every file outside of git's, and what graft remembers.

    Left out is what only helps a set of files along: the lock against a second command, an emptied staging.

    Args:
        pins: with where HEAD and the index of a checkout stand.
    """
    kept = {}
    for name, entry in disk.items():
        parts = name.split("/")
        if ".git" in parts[:-1] or (parts[-1] == ".git" and entry[0] == "folder"):
            own = "graft" in parts[:-1] and parts[-1] not in ("lock", "fetch.json", "staging")
            if not own and not (pins and parts[-1] in ("HEAD", "index")):
                continue
        kept[name] = entry
    return kept
