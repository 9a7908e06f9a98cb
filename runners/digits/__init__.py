"""Digits in four tasks, learned by a small mixture of experts: what infodyn-digits runs."""

from __future__ import annotations

import sys
from pathlib import Path

OVERLAY = Path(__file__).resolve().parents[2] / "overlays" / "common"
"""The overlay whose package ``infodyn`` is measured here, as it stands, without any upstream."""

if str(OVERLAY) not in sys.path:
    sys.path.append(str(OVERLAY))
