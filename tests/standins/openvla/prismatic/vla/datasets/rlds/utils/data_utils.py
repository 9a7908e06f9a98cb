"""The statistics beside a run's checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save_dataset_statistics(dataset_statistics: dict[str, Any], run_dir: Path) -> None:
    (Path(run_dir) / "dataset_statistics.json").write_text(json.dumps(dataset_statistics, indent=2))
