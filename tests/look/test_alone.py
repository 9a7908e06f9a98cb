"""What may import what: the look of reports needs the standard library alone, the engine nothing but the look."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {"look": {"look", "tomli"}, "graft": {"graft", "look", "libcst", "shtab", "tomli"}}


def imported(path: Path) -> Iterator[str]:
    """The first names of all modules that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_nothing_else_is_imported(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 4
    wrong = {
        str(path.relative_to(ROOT)): name
        for path in files
        for name in set(imported(path)) - ALLOWED[package]
        if name not in sys.stdlib_module_names
    }
    assert wrong == {}
