"""The overlays of LIBERO and its evaluation, imported straight from overlays/ under names that nothing else has."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
LIBERO = ROOT / "overlays/LIBERO/libero"
ROBOT = ROOT / "overlays/openvla/experiments/robot"


def load(path: Path, name: str = "") -> ModuleType:
    """The module of one overlay file, or the package of a folder, anew each time."""
    name = name or f"graft_overlay_{path.stem}"
    folder = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        name, path / "__init__.py" if folder else path, submodule_search_locations=[str(path)] if folder else None
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if folder:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def guard(name: str) -> ModuleType:
    """One module of ``libero.guard``."""
    if "graft_libero_guard" not in sys.modules:
        load(LIBERO / "guard", "graft_libero_guard")
    return importlib.import_module(f"graft_libero_guard.{name}")
