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

    Raises BadPlaces for what is no TOML, an unknown key, a value of another type, and a relative path.
    """
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        found = toml.loads(path.read_text(encoding="utf-8"))
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
    folder = Path(value).expanduser()
    if not folder.is_absolute():
        raise BadPlaces(
            f"{path}: {key} = {value!r} is no absolute path, and from which folder it is meant nobody knows: begin it "
            "with / or ~, or leave the line out for the default"
        )
    return str(folder)


def no_address(text: str) -> str | None:
    """Why `text` is no address of a hub, or None."""
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.netloc:
        return None
    return "an address begins with https:// or http:// and names a host"
