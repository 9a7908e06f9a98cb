"""A work folder: marked as one, and written with one set of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.places import Refused

MARK = "graft-work"
"""A file that tells a work folder from a folder of somebody's own: what lies in a work folder may be removed."""


def claim(work: Path) -> None:
    """Makes `work` and marks it as a work folder.

    Raises Refused where a folder with other things in it is there: stages remove what lies in their folders.
    """
    if work.is_dir() and any(work.iterdir()) and not (work / MARK).exists():
        raise Refused(f"{work} holds files that no run of this kind wrote: choose an empty or a new folder with --work")
    if work.exists() and not work.is_dir():
        raise Refused(f"{work} is a file: choose a folder with --work")
    work.mkdir(parents=True, exist_ok=True)
    (work / MARK).touch()


def same_settings(work: Path, found: Mapping[str, Any], option: str) -> None:
    """Keeps in `work` the settings, plain data, that decide what is written there.

    Raises Refused naming `option` where what is there was written with others.
    """
    kept = work / "settings.json"
    if kept.exists() and (before := json.loads(kept.read_text(encoding="utf-8"))) != found:
        changed = ", ".join(sorted(name for name in {*found, *before} if before.get(name) != found.get(name)))
        raise Refused(f"{work} holds episodes of other settings ({changed}): choose another {option}")
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
