"""What a stage's folder holds when the stage begins anew: it is moved aside, since it may have taken days."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from runners.stage_records import LOG, read_begun, read_record, seconds_of

BEFORE = ".before-"
LITTLE = 0.1
"""Work of less than this share of what lies aside does not take its place."""


def asides(folder: Path) -> list[Path]:
    """The folders `NAME.before-N` beside `folder`, earliest first."""
    if not folder.parent.is_dir():
        return []
    pattern = re.compile(re.escape(folder.name + BEFORE) + r"(\d+)")
    found = [(int(match[1]), path) for path in folder.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def move_aside(folder: Path) -> str:
    """Leaves no `folder`, and at most one folder `NAME.before-N` beside it; returns what was done, in words.

    That is what was there, and what lay aside before is removed then. Other than that, what is there is removed where
    it took little beside what lies aside: a try that failed at once does not cost the days of work before it.
    """
    if not folder.exists():
        return ""
    if not any(folder.iterdir()):
        folder.rmdir()
        return ""
    older = asides(folder)
    longest = max(map(seconds_in, older), default=0.0)
    if older and seconds_in(folder) < LITTLE * longest:
        shutil.rmtree(folder)
        return f"what was there is removed; {older[-1]}, which took {longest:.0f} s, stays"
    number = int(older[-1].name.rpartition("-")[2]) + 1 if older else 1
    aside = folder.with_name(f"{folder.name}{BEFORE}{number}")
    folder.rename(aside)
    for path in older:
        shutil.rmtree(path)
    gone = f", and {', '.join(path.name for path in older)} is removed" if older else ""
    return f"what was there is now {aside}{gone}"


def seconds_in(folder: Path) -> float:
    """How long the work in a stage's folder took, as far as its records tell."""
    if (record := read_record(folder)) is not None:
        return float(record["seconds"])
    begun = read_begun(folder)
    return 0.0 if begun is None else float(begun["spent"]) + seconds_of(folder / LOG, begun["at"])
