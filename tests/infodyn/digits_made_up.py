"""Digits that nobody wrote: a fixed pattern for each class with noise, so that no test needs scikit-learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runners.digits import data
from runners.digits.data import Samples


def made_up(count: int = 1797) -> Samples:
    generator = torch.Generator().manual_seed(7)
    patterns = torch.rand(10, 8, 8, generator=generator) * 2 - 1
    labels = torch.arange(count) % 10
    noise = 0.1 * torch.randn(count, 8, 8, generator=generator)
    return Samples((patterns[labels] + noise).clamp(-1, 1), labels)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load_digits", made_up)


DECIDED = [
    {"number": n, "previous": previous, "task": task, "kind": kind, "grokked": grokked, "reason": f"{task} & <more>"}
    for n, (previous, task, kind, grokked) in enumerate(
        [
            (None, "low", "cold", []),
            ("low", "high", "score", ["low"]),
            ("high", "low", "floor", []),
            ("low", "rotated", "review", ["low", "rotated"]),
            ("rotated", "low", "cycle", ["low", "high", "rotated"]),
            ("low", "low", "cycle", ["low"]),
        ]
    )
]
"""Choices of a scheduler: three of them by which a grokked task hands over to another."""


def run_of(
    schedule: str = "rounds", router: str = "linear", seed: int = 0, test: dict[str, list[float]] | None = None
) -> dict[str, Any]:
    """A run as ``train`` returns it, with figures of one's own."""
    return {
        **{"schedule": schedule, "router": router, "seed": seed, "cpu_seconds": 1.0, "train_pi": [0.1] * 4},
        "chosen": list(data.TASKS),
        "decided": DECIDED if schedule == "dynamic" else [],
        "grokked": ["low", "rotated"] if schedule == "dynamic" else [],
        "test": test or {task: [0.1, 0.5 + 0.1 * seed] for task in data.TASKS},
        "history": {task: [{"epoch": n, "avg_pi": 0.25} for n in range(5)] for task in data.TASKS},
        "experts_used": {task: [7.0, 2.0] for task in data.TASKS},
        "experts": {task: [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]] for task in data.TASKS},
    }
