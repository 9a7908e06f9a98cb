"""The records of a stage: what a finished one was made with, and what an unfinished one was begun with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.digests import files_below
from runners.stage import Stage

RECORD, LOG = "stage.json", "log.txt"
BEGUN = "begun.json"
"""What an unfinished stage was begun with; gone once it is done, or has ended with what will not do."""


def key_of(parts: Mapping[str, str]) -> str:
    """SHA-256 (hex) of everything that a stage depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def differing(parts: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Names of the parts that are not what they were."""
    return sorted(name for name in parts.keys() | before.keys() if parts.get(name) != before.get(name))


def seconds_of(log: Path, begun: float) -> float:
    """How long a command ran that began at `begun` (seconds since 1970) and was killed: until it said its last."""
    return max(0.0, log.stat().st_mtime - begun) if log.exists() else 0.0


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the stage in `folder`, or None where there is none that can be read."""
    return _read(folder / RECORD, {"key", "parts", "seconds", "outputs"})


def read_begun(folder: Path) -> dict[str, Any] | None:
    """What the unfinished stage in `folder` was begun with, or None where that is not known."""
    return _read(folder / BEGUN, {"key", "parts", "at", "spent", "attempts"})


def _read(path: Path, names: set[str]) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and names <= record.keys() else None


def reason(record: dict[str, Any] | None, parts: dict[str, str], key: str, stage: Stage) -> str:
    """Why the stage has to run, or the empty string where its record still holds."""
    if record is None:
        return "not finished before" if stage.folder.exists() else "not run before"
    if record["key"] != key:
        return f"changed: {', '.join(differing(parts, record['parts']))}"
    gone = [name for name, size in record["outputs"].items() if not _same_size(stage.folder / name, size)]
    gone += [str(path) for path in stage.outputs if not there(path)]
    return f"output gone or cut short: {', '.join(gone[:3])}" if gone else ""


def _same_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def there(path: Path) -> bool:
    """Whether `path` is a file, or a folder that holds one."""
    return path.is_file() or (path.is_dir() and bool(files_below(path)))


def listing(stage: Stage) -> dict[str, int]:
    """Size in bytes of every file of the stage's outputs, by name relative to its folder."""
    found = {}
    for output in stage.outputs:
        for path in [output] if output.is_file() else [output / name for name in files_below(output)]:
            found[os.path.relpath(path, stage.folder)] = path.stat().st_size
    return found
