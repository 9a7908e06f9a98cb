"""Seeds, and where a run takes place: on a GPU as upstream, on a CPU in full precision where there is none."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_NAME = os.environ.get("STANDIN_DTYPE", "bfloat16" if DEVICE == "cuda" else "float32")
DTYPE: torch.dtype = getattr(torch, _NAME)
"""Of the frozen weights and of autocast: float32 on a CPU, many of which have no bfloat16 units."""


def set_global_seed(seed: int, get_worker_init_fn: bool = False) -> Callable[[int], None] | None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return (lambda worker: np.random.seed(seed + worker)) if get_worker_init_fn else None


def begin_process_group() -> None:
    """The group of a torchrun, or one of a single process where the script was started by plain ``python``."""
    if dist.is_initialized():
        return
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
