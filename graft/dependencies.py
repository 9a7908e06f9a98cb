"""What an upstream asks pip for, read as data from its own files; nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from graft.errors import BadInput
from graft.lock import parse_toml
from graft.tree import Tree

FILES = ("pyproject.toml", "requirements.txt")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)")


def normalised(name: str) -> str:
    """A distribution's name as indexes and metadata compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(tree: Tree) -> dict[str, str]:
    """Normalised distribution name to what is asked of it (PEP 508 without the name), as far as files say it.

    ``setup.py`` is code and is not asked.

    Raises:
        BadInput: a file is no TOML.
    """
    found: dict[str, str] = {}
    for file in FILES:
        content = tree.read(file)
        for line in _lines(file, content) if content is not None else ():
            matched = _NAME.fullmatch(line.split(" #")[0].strip())
            if matched and "://" not in line:
                found.setdefault(normalised(matched[1]), matched[2].strip())
    return found


def _lines(file: str, content: bytes) -> Iterator[str]:
    if not file.endswith(".toml"):
        lines = content.decode("utf-8", "replace").splitlines()
        yield from (line for line in lines if line.strip() and not line.lstrip().startswith(("#", "-")))
        return
    project = parse_toml(content, Path(file)).get("project", {})
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    yield from (entry for entry in listed if isinstance(entry, str))


def changes(old: Tree, new: Tree) -> list[str]:
    """A note for each requirement that differs between two trees."""
    try:
        before, after = requirements(old), requirements(new)
    except BadInput as error:
        return [f"whether upstream's own requirements changed is not known: {error.where}: {error.what}"]
    notes = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            was, is_now = (_shown(asked, name) for asked in (before, after))
            notes.append(f"upstream's own requirement of {name} changed: {was} -> {is_now}")
    if notes:
        notes.append("bring envs/ in line with these before you run the packs' tests")
    return notes


def _shown(asked: dict[str, str], name: str) -> str:
    return "none" if name not in asked else asked[name] or "any version"
