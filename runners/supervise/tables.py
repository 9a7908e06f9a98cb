"""Tables as data: TOML on every Python that the engine runs on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class BadTable(Exception):
    """A table that cannot be read; the message names the file and the key."""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises BadTable naming it."""
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadTable(f"{path}: {error}") from None
    return found
