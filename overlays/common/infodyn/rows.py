"""The rows that a probe keeps of one module, and their union over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .module_paths import ProbeError


class Rows:
    """At most ``capacity`` rows of a module's activations, on the CPU, with the sample, token and label of each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: Tensor | None = None
        self._samples: list[int] = []
        self._tokens: list[int] = []
        self._labels: list[Tensor | None] = []

    def add(self, values: Tensor, samples: Sequence[int], tokens: Sequence[int], labels: Tensor | None) -> None:
        """Copies ``values [r, features]``; ``labels [r]``, or none where the batch has none that fit these rows."""
        if self._values is None:
            # Pages that are never written to take no memory: a rank that sees a part of the subset pays for that part.
            # Made in inference mode it could not be written to outside of it.
            with torch.inference_mode(False):
                self._values = torch.empty(self.capacity, values.shape[1], dtype=values.dtype)
        begin = len(self._samples)
        self._values[begin : begin + len(values)].copy_(values)
        self._samples += samples
        self._tokens += tokens
        self._labels.append(labels)

    def packed(self, shared: bool) -> dict[str, Any]:
        """As tensors, in the order in which they came; ``shared``: to be sent, and so without the unused capacity."""
        number = len(self._samples)
        values = torch.empty(0, 0) if self._values is None else self._values[:number]
        labels = None if any(each is None for each in self._labels) else self._labels
        return {
            "values": values.clone() if shared else values,
            "samples": torch.tensor(self._samples, dtype=torch.int64),
            "tokens": torch.tensor(self._tokens, dtype=torch.int64),
            "labels": labels if labels is None else torch.cat([torch.empty(0, dtype=torch.int64), *labels]),
        }


def merge(parts: Sequence[dict[str, Any]], path: str, chosen: Sequence[int]) -> dict[str, Any]:
    """The rows of all ranks, by sample and token.

    Raises ``ProbeError`` where they are not the chosen samples, each once.
    """
    parts = [part for part in parts if len(part["samples"])]
    if not parts:
        raise ProbeError(f"{path} never ran on a sample of the subset; probe a module that the forward calls")
    samples, tokens = (torch.cat([part[key] for part in parts]) for key in ("samples", "tokens"))
    order = (samples * (int(tokens.max()) + 2) + tokens).argsort(stable=True)
    samples, tokens = samples[order], tokens[order]
    pairs = torch.stack([samples, tokens])
    if bool((pairs[:, 1:] == pairs[:, :-1]).all(0).any()):
        raise ProbeError(f"{path}: a sample came twice; say with dealt= how the loader deals samples to ranks")
    missing = sorted(set(chosen) - set(samples.tolist()))
    if missing:
        raise ProbeError(
            f"{path}: {len(missing)} of {len(chosen)} samples of the subset never came, {missing[0]} the first; give "
            "samples= the number that the evaluation really reads, and dealt= how the loader deals them to ranks"
        )
    labels = [part["labels"] for part in parts]
    return {
        "values": torch.cat([part["values"] for part in parts])[order] if len(parts) > 1 else parts[0]["values"][order],
        "samples": samples,
        "tokens": tokens,
        "labels": None if any(each is None for each in labels) else torch.cat(labels)[order],
    }


class Ranks:
    """The ranks that evaluate together: all of the process group, or this process alone."""

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.together = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if self.together else 1
        self.rank = dist.get_rank(group) if self.together else 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks on the first, an empty list on the others."""
        if self.size == 1:
            return [value]
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        first = dist.get_global_rank(self.group, 0) if self.group is not None else 0
        dist.gather_object(value, parts, dst=first, group=self.group)
        return parts or []

    def agree(self, problem: str | None) -> None:
        """Raises ``ProbeError`` on all ranks where one has a problem, so that none waits for another."""
        problems: list[str | None] = [problem] * self.size
        if self.size > 1:
            dist.all_gather_object(problems, problem, group=self.group)
        told = {f"rank {rank}: {each}" if self.size > 1 else each for rank, each in enumerate(problems) if each}
        if told:
            raise ProbeError("; ".join(sorted(told)))
