"""Four tasks from scikit-learn's 1,797 real digits of 8x8 pixels, which come inside its wheel.

    low        the digits 0 to 4
    high       the digits 5 to 9
    rotated    all digits, turned by a quarter
    inverted   all digits, dark on light

One output of ten classes serves all four, and nothing tells the model which task an image is from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TASKS = ("low", "high", "rotated", "inverted")
TRAINED, VALIDATED = 1000, 240
"""Images in training and validation; the other 557 test. A split holds the same images in every task."""


@dataclass(frozen=True)
class Samples:
    """images float32 [N, 8, 8] in [-1, 1], labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Samples:
        return Samples(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Task:
    """What the model learns from, what a schedule decides by, and what is reported."""

    train: Samples
    validation: Samples
    test: Samples


def make_tasks(seed: int) -> dict[str, Task]:
    """The tasks, split by ``seed``. Raises ModuleNotFoundError with the remedy where scikit-learn is not installed."""
    every = load_digits()
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    parts = [every.take(rows) for rows in order.split([TRAINED, VALIDATED, len(every) - TRAINED - VALIDATED])]
    return {name: Task(*(_as_task(name, part) for part in parts)) for name in TASKS}


def load_digits() -> Samples:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        remedy = "pip install scikit-learn==1.9.1"
        raise ModuleNotFoundError(f"the digits come with scikit-learn ({error}): {remedy}", name=error.name) from error
    found = datasets.load_digits()
    return Samples(torch.tensor(found.images, dtype=torch.float32) / 8 - 1, torch.tensor(found.target))


def _as_task(name: str, samples: Samples) -> Samples:
    if name == "rotated":
        return Samples(samples.images.rot90(1, (1, 2)), samples.labels)
    if name == "inverted":
        return Samples(-samples.images, samples.labels)
    return samples.take((samples.labels < 5) if name == "low" else (samples.labels >= 5))
