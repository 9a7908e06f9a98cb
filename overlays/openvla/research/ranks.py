"""The ranks that train one model, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """A process group, or none for a model that runs alone."""

    group: Any
    device: torch.device

    @classmethod
    def of(cls, model: nn.Module) -> Ranks:
        """All ranks for a DDP or FSDP wrapper, and the device that the model computes on.

        All of them: under hybrid sharding, which upstream's train.py uses, the wrapper's own group is one node's.
        """
        wrapped = dist.is_available() and dist.is_initialized() and hasattr(model, "process_group")
        group = dist.group.WORLD if wrapped else None
        # FSDP may keep its shards elsewhere than it computes; a bare parameter tells for everything else.
        device = getattr(model, "compute_device", None) or next(model.parameters()).device
        return cls(group, device)

    @property
    def size(self) -> int:
        return 1 if self.group is None else dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on all of them."""
        if self.group is not None:
            tensor = tensor.clone()
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """``[n, ...]`` of each rank to ``[size * n, ...]``, in the order of ranks, on all of them."""
        if self.group is None:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts)

    def from_main(self, values: list[float]) -> list[float]:
        """The main rank's float64 values, on all ranks."""
        if self.group is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=dist.get_global_rank(self.group, 0), group=self.group)
        return [float(value) for value in tensor.tolist()]

    def tensor_from_main(self, tensor: torch.Tensor) -> torch.Tensor:
        """The main rank's ``tensor``, on all ranks; of one shape and dtype everywhere."""
        if self.group is not None:
            tensor = tensor.clone()
            dist.broadcast(tensor, src=dist.get_global_rank(self.group, 0), group=self.group)
        return tensor
