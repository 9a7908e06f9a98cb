"""Stands where the wandb package would: appends what is logged to ``$WANDB_DIR/wandb.jsonl``, ``wandb/`` by default."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

config: dict[str, Any] = {}
_run: dict[str, Any] = {}


def init(**options: Any) -> None:
    _run.update({key: str(value) for key, value in options.items() if key in ("name", "project", "entity", "group")})
    _write({"init": _run})


def log(metrics: dict[str, Any], step: int | None = None) -> None:
    _write({"run": _run.get("name"), "step": step, **metrics})


def save(path: str) -> None:
    _write({"saved": path})


def finish() -> None:
    _write({"finished": _run.get("name")})


def _write(line: dict[str, Any]) -> None:
    folder = Path(os.environ.get("WANDB_DIR", "wandb"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "wandb.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
