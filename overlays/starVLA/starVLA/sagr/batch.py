"""From the examples of a batch to tensors: actions, states, flags and masks. Errors name the example and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Example = Mapping[str, Any]


def instructions(examples: Sequence[Example]) -> list[str]:
    """The `lang` of each. Raises ValueError naming the examples without one."""
    empty = [i for i, example in enumerate(examples) if not str(example.get("lang") or "").strip()]
    if empty:
        raise ValueError(f"example(s) {empty}: 'lang' is empty; the semantic anchor needs an instruction")
    return [example["lang"] for example in examples]


def _rows(examples: Sequence[Example], key: str, purpose: str) -> list[np.ndarray]:
    missing = [i for i, example in enumerate(examples) if example.get(key) is None]
    if missing:
        raise ValueError(f"example(s) {missing} have no '{key}': {purpose}")
    return [np.asarray(example[key], dtype=np.float32) for example in examples]


def actions(examples: Sequence[Example], key: str, horizon: int, dim: int, purpose: str) -> Tensor:
    """The last `horizon` actions under `key`, float32 [B, H, A]; the shape is checked."""
    rows = _rows(examples, key, purpose)
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[0] < horizon or row.shape[1] != dim:
            raise ValueError(
                f"example {i}: '{key}' is {list(row.shape)}, it must be [{horizon} or more, {dim}]; "
                "framework.action_model.action_horizon and action_dim must fit the data"
            )
    return torch.from_numpy(np.stack([row[-horizon:] for row in rows]))


def state(examples: Sequence[Example], dim: int | None) -> Tensor | None:
    """`state` float32 [B, 1, Ds]; None where the first example has none."""
    if examples[0].get("state") is None:
        return None
    rows = _rows(examples, "state", "the other examples of the batch have one")
    for i, row in enumerate(rows):
        if row.shape != (1, dim):
            raise ValueError(
                f"example {i}: 'state' is {list(row.shape)}, it must be [1, {dim}]; framework.action_model.state_dim "
                "must fit the data"
            )
    return torch.from_numpy(np.stack(rows))


def flags(examples: Sequence[Example], key: str, purpose: str) -> Tensor:
    """bool [B]: where the number under `key` is above 0."""
    return torch.from_numpy(np.stack([row.reshape(()) for row in _rows(examples, key, purpose)]) > 0)


def first(examples: Sequence[Example], key: str, horizon: int) -> Tensor:
    """bool [B, H]: the first `key` actions of each; all where an example lacks the key.

    Raises ValueError for a number outside 1..H.
    """
    counts = [int(example.get(key, horizon)) for example in examples]
    for i, count in enumerate(counts):
        if not 1 <= count <= horizon:
            raise ValueError(f"example {i}: '{key}' is {count}, it must lie in 1..{horizon}, the chunk's length")
    return torch.arange(horizon) < torch.tensor(counts)[:, None]
