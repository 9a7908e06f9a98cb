"""Where a sum or a softmax must not be taken in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` as float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
