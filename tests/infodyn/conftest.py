"""Shared by the tests of the information dynamics: its package is importable as ``infodyn``, without any upstream."""

from __future__ import annotations

import sys
from pathlib import Path

for place in (Path(__file__).resolve().parents[2] / "overlays" / "common", Path(__file__).parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
