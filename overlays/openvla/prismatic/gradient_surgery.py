"""The bridge from upstream's scripts to the ``research`` package, which lies beside ``prismatic``.

Upstream's editable install names the packages that there were when it ran, and ``python vla-scripts/finetune.py`` puts
vla-scripts/ on the path, so ``research`` need not be importable; ``prismatic`` always is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
if str(_ROOT) not in sys.path:
    # First, so that another package called research elsewhere does not get in between.
    sys.path.insert(0, str(_ROOT))

import research  # noqa: E402

if Path(str(research.__file__)).resolve().parent != _ROOT / "research":
    raise ImportError(
        f"the package `research` was already imported from {research.__file__}; gradient surgery needs "
        f"{_ROOT}/research: take the other one off the path"
    )

from research.config import SurgeryConfig  # noqa: E402
from research.surgery import attach, attach_strategy  # noqa: E402

__all__ = ["SurgeryConfig", "attach", "attach_strategy", "before_step", "save"]


def before_step(strategy: Any, metrics: Any) -> None:
    """For ``run_vla_training``, between backward and clipping: ask the surgery and leave its numbers for ``push``."""
    surgery = getattr(strategy, "surgery", None)
    if surgery is None:
        return
    surgery.before_step(metrics.global_step)
    metrics.surgery = surgery.metrics()


def save(strategy: Any, metrics: Any) -> None:
    """For ``run_vla_training``, after a checkpoint was saved: the state goes beside it, named after its step."""
    surgery = getattr(strategy, "surgery", None)
    if surgery is not None:
        surgery.save(Path(metrics.run_dir) / "checkpoints", metrics.global_step)
