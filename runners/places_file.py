"""Reads `runners/places.toml`, where a machine's own places stand; `runners/places.example.toml` explains its keys."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

FOLDERS = ("work", "cache", "data_root", "hf_home")
ADDRESSES = ("hf_endpoint", "hf_mirror")
SWITCHES = ("offline",)
KEYS = (*FOLDERS, *ADDRESSES, *SWITCHES)


class BadPlaces(Exception):
    """The file cannot be used; the message names file, key and remedy."""


def read(path: Path) -> Mapping[str, str | bool]:
    """The keys of `path` that are set: folders as absolute paths, `~` filled in.

    Raises BadPlaces for what is no TOML, an unknown key, a value of another type, a relative path, and a Python 3.10
    without the package tomli.
    """
    try:
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:
        raise BadPlaces(
            f"{path}: {sys.executable} cannot read TOML: `{sys.executable} -m pip install tomli`, or take Python 3.11"
        ) from None
    try:
        # Editors of other systems put a byte order mark before the first line.
        found = toml.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadPlaces(f"{path}: {error.strerror or error}: name a file that can be read with GRAFT_PLACES") from None
    except ValueError as error:
        raise BadPlaces(f"{path} is no TOML: {error}: runners/places.example.toml shows how a line looks") from None
    return {key: _value(path, key, value) for key, value in found.items()}


def _value(path: Path, key: str, value: object) -> str | bool:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        raise BadPlaces(f"{path}: {key} is no key{f', is it {near[0]}?' if near else ''}: there are {', '.join(KEYS)}")
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise BadPlaces(f"{path}: {key} = {value!r}: write true or false")
        return value
    if not isinstance(value, str):
        raise BadPlaces(f"{path}: {key} = {value!r}: write a text in quotes")
    if key in ADDRESSES:
        if complaint := no_address(value):
            raise BadPlaces(f"{path}: {key} = {value!r}: {complaint}")
        return value
    return str(absolute(value, f"{path}: {key} = {value!r}", "leave the line out for the default"))


def expanded(text: str, named: str) -> Path:
    """The path `text`, `~` filled in; `named` tells where it stands. Raises BadPlaces for an unknown user's `~`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadPlaces(f"{named}: nobody here is called {Path(text).parts[0][1:]}: write the whole path") from None


def absolute(text: str, named: str, otherwise: str) -> Path:
    """The same where it is kept for later, and has to be absolute; `otherwise` is the other remedy.

    Raises BadPlaces.
    """
    path = expanded(text, named)
    if not path.is_absolute():
        raise BadPlaces(
            f"{named} is no absolute path, and from which folder it is meant nobody knows: begin it with / or ~, or "
            f"{otherwise}"
        )
    return path


def no_address(text: str) -> str | None:
    """Why `text` is no address of a hub, or None."""
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.netloc:
        return None
    return "an address begins with https:// or http:// and names a host"
