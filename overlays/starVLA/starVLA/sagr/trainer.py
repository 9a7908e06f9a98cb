"""What the seam in upstream's training step calls: the method's metrics, into its log and into `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .metrics import Observer


def step_metrics(trainer: Any, output: dict[str, Any]) -> dict[str, float]:
    """Metrics of the step that has just been taken; empty between logging steps and for other frameworks.

    Args:
        trainer: upstream's VLATrainer, before it counts the step.
        output: what the framework's forward returned.

    The numbers are this rank's; rank 0 also appends them as a line to `<output_dir>/metrics.jsonl`.
    """
    observer = output.get("sagr")
    if not isinstance(observer, Observer) or not trainer.accelerator.sync_gradients:
        return {}
    step = trainer.completed_steps + 1
    every = int(trainer.config.trainer.logging_frequency)
    observer.active = (step + 1) % every == 0
    if step % every or observer.record is None:
        if observer.record is not None:
            observer.record.gradients.remove()
        return {}
    metrics = observer.record.read()
    if trainer.accelerator.is_main_process:
        with open(Path(trainer.config.output_dir) / "metrics.jsonl", "a", encoding="utf-8") as file:
            stage = {} if observer.stage is None else {"stage": observer.stage}
            file.write(json.dumps({"step": step, **stage, **metrics}) + "\n")
    return metrics
