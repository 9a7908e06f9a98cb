"""A model that is only looked at: frozen, in evaluation mode, and handed back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter requiring gradients, autocast off; flags are restored, also after an error.

    The flags are kept one by one, because a fine-tuning script may have frozen or set to evaluation only parts of the
    model.
    """
    training = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    device = next(model.parameters()).device.type
    try:
        for module, _ in training:
            module.training = False
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
