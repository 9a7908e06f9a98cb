"""The bridge from upstream's scripts to research/, which lies beside ``prismatic``.

Upstream's editable install names the packages that there were when it ran, and ``python vla-scripts/finetune.py`` puts
vla-scripts/ on the path, so ``research`` need not be importable, or may be somebody else's; ``prismatic`` always is. So
research/ is imported below this module's own name: ``sys.path`` stays as it is, and no other package is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# A module that has a path is a package: its submodules are what lies there.
__path__ = [str(Path(__file__).resolve().parents[1] / "research")]

from .gradient_surgery.config import SurgeryConfig
from .gradient_surgery.surgery import attach, attach_strategy

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
