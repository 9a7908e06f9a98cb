"""Leaves FSDP's weights as sharded as they were before a forward that has no backward.

FSDP frees gathered weights in the backward pass. After a forward without one they stay (all of them under
SHARD_GRAD_OP, the root's under FULL_SHARD), and the next forward takes them for current: an optimizer step in between
is lost. The probe runs just there, between a backward and its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def sharded_again(model: nn.Module) -> Iterator[None]:
    """Free what FSDP gathers inside the block; nothing to do for a model without FSDP."""
    units = _units(model)
    # Before the first forward FSDP has gathered nothing and cannot be asked.
    gathered = {unit for unit in units if unit._is_root is not None and not unit._handle.needs_unshard()}
    yield
    if units:
        from torch.distributed.fsdp._runtime_utils import _reshard

        for unit in units:
            if unit not in gathered and unit._is_root is not None and not unit._handle.needs_unshard():
                _reshard(unit, unit._handle, True)


def _units(model: nn.Module) -> list[nn.Module]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    from torch.distributed.fsdp import FullyShardedDataParallel

    units = FullyShardedDataParallel.fsdp_modules(model)
    return [unit for unit in units if unit._handle is not None and unit._handle.uses_sharded_strategy]
