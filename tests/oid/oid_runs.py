"""Small runs with probe files, written as the probes write them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runners.oid.estimate import Task
from runners.oid.probe_files import COMMON

if str(COMMON) not in sys.path:
    sys.path.insert(0, str(COMMON))
from infodyn.probe_file import probe_path, write_probe_file

EXPERTS = "layers.1.experts"
TARGET = "layers.1.out"


def task(first: Any, second: Any, target: Any, samples: Any = None, order: int = 0) -> Task:
    """Rows that are samples of their own, unless `samples` says otherwise."""
    rows = np.arange(len(first)) if samples is None else np.asarray(samples)
    return Task(0, ("a", "b", "t"), first, second, target, rows, "dense evaluation", len(first), order)


def content(epoch: int, rows: int = 300, experts: int = 4, probe: str = "moe") -> dict[str, Any]:
    """Experts that share what they hold in part; each row is routed to expert 0 and one other, expert 1 used least."""
    rng = np.random.default_rng(epoch)
    shared = rng.standard_normal((rows, 3))
    held = [shared + rng.standard_normal((rows, 3)) for _ in range(experts)]
    sources = {f"{EXPERTS}.{i}": torch.tensor(held[i], dtype=torch.bfloat16) for i in range(experts)}
    target = torch.tensor(sum(held) + rng.standard_normal((rows, 3)), dtype=torch.float32)
    other = 1 + np.arange(rows) % (experts - 1)
    return {
        "metadata": {
            "probe_name": probe,
            "epoch": epoch,
            "source_modules": list(sources),
            "target_modules": [TARGET],
            "dataset_name": "toy",
            "expert_activation_counts": {EXPERTS: {i: 50 if i == 1 else 100 + i for i in range(experts)}},
            "rows": {
                "sample": torch.arange(rows),
                "token": torch.zeros(rows, dtype=torch.int64),
                "experts": "dense",
                "routed_experts": {EXPERTS: torch.tensor(np.stack([np.zeros(rows, int), other], axis=1))},
                "seed": 0,
            },
        },
        "source_activations": sources,
        "target_activations": {TARGET: target},
        "labels": torch.zeros(rows, dtype=torch.int64),
    }


def write(run: Path, made: Mapping[str, Any]) -> Path:
    path: Path = probe_path(run, made["metadata"]["probe_name"], made["metadata"]["epoch"])
    write_probe_file(path, made)
    return path
