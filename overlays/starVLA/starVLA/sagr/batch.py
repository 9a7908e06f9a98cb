"""From the examples of a batch to tensors: actions, states, flags and masks. Errors name the example and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Example = Mapping[str, Any]


def instructions(examples: Sequence[Example]) -> list[str]:
    """The `lang` of each. Raises ValueError for a batch without examples, and naming those without an instruction."""
    if not examples:
        raise ValueError("no example in the batch")
    other = [i for i, example in enumerate(examples) if not isinstance(example.get("lang"), str | None)]
    if other:
        kinds = ", ".join(sorted({type(examples[i]["lang"]).__name__ for i in other}))
        raise ValueError(f"example(s) {other}: 'lang' is of type {kinds}, it must be one string")
    empty = [i for i, example in enumerate(examples) if not (example.get("lang") or "").strip()]
    if empty:
        raise ValueError(f"example(s) {empty}: 'lang' is empty; the semantic anchor needs an instruction")
    return [example["lang"] for example in examples]


def images(examples: Sequence[Example]) -> list[Any]:
    """The `image` of each. Raises ValueError naming the examples without one."""
    _refuse_missing(examples, "image", "the vision-language model needs one")
    return [example["image"] for example in examples]


def _refuse_missing(examples: Sequence[Example], key: str, purpose: str) -> None:
    missing = [i for i, example in enumerate(examples) if example.get(key) is None]
    if missing:
        raise ValueError(f"example(s) {missing} have no '{key}': {purpose}")


def _rows(examples: Sequence[Example], key: str, purpose: str) -> list[np.ndarray]:
    _refuse_missing(examples, key, purpose)
    return [np.asarray(example[key], dtype=np.float32) for example in examples]


def _refuse_broken(rows: Sequence[np.ndarray], key: str, of: Tensor | None = None) -> None:
    broken = [i for i, row in enumerate(rows) if not np.isfinite(row).all() and (of is None or of[i])]
    if broken:
        raise ValueError(f"example(s) {broken}: '{key}' holds NaN or inf; look at the data and its normalisation")


def actions(
    examples: Sequence[Example], key: str, horizon: int, dim: int, purpose: str, needed: Tensor | None = None
) -> Tensor:
    """The last `horizon` actions under `key`, float32 [B, H, A]; the shape is checked, and that they are finite where
    `needed` [B] (None: everywhere).
    """
    rows = _rows(examples, key, purpose)
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[0] < horizon or row.shape[1] != dim:
            raise ValueError(
                f"example {i}: '{key}' is {list(row.shape)}, it must be [{horizon} or more, {dim}]; "
                "framework.action_model.action_horizon and action_dim must fit the data"
            )
    rows = [row[-horizon:] for row in rows]
    _refuse_broken(rows, key, needed)
    return torch.from_numpy(np.stack(rows))


def state(examples: Sequence[Example], dim: int | None) -> Tensor | None:
    """`state` float32 [B, 1, Ds], finite; None where `dim` says that there is none, and no example has one."""
    if not dim and all(example.get("state") is None for example in examples):
        return None
    rows = _rows(
        examples, "state", f"framework.action_model.state_dim is {dim}; set it to null where the data has no state"
    )
    for i, row in enumerate(rows):
        if row.shape != (1, dim):
            raise ValueError(
                f"example {i}: 'state' is {list(row.shape)}, it must be [1, {dim}]; framework.action_model.state_dim "
                "must fit the data"
            )
    _refuse_broken(rows, "state")
    return torch.from_numpy(np.stack(rows))


def flags(examples: Sequence[Example], key: str, purpose: str) -> Tensor:
    """bool [B]: where the number under `key` is above 0. Raises ValueError for one that is NaN or inf."""
    rows = _rows(examples, key, purpose)
    _refuse_broken(rows, key)
    return torch.from_numpy(np.stack([row.reshape(()) for row in rows]) > 0)


def first(examples: Sequence[Example], key: str, horizon: int) -> Tensor:
    """bool [B, H]: the first `key` actions of each; all where an example lacks the key.

    Raises ValueError for a number outside 1..H.
    """
    counts = [int(example.get(key, horizon)) for example in examples]
    for i, count in enumerate(counts):
        if not 1 <= count <= horizon:
            raise ValueError(f"example {i}: '{key}' is {count}, it must lie in 1..{horizon}, the chunk's length")
    return torch.arange(horizon) < torch.tensor(counts)[:, None]
