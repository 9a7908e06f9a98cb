"""Probe batches with the positions whose distributions count: the first action token, or the whole action."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import nn

from ..probe.hidden_and_mask import ProbeBatch
from .quiet import quiet
from .replay import forward
from .vulnerability import Task


def tasks(model: nn.Module, batches: Iterable[ProbeBatch], output_tokens: int) -> Iterator[Task]:
    """One task a batch. With ``output_tokens`` above 1 the model's own greedy tokens are appended as the context of
    the later positions, and the divergences of all positions are summed (chain rule)."""
    first = 0
    for batch in batches:
        yield _task(model, batch, output_tokens, first)
        first += len(batch.ids)


@torch.no_grad()
def _task(model: nn.Module, batch: ProbeBatch, output_tokens: int, first: int) -> Task:
    last = batch.output_position
    if output_tokens > 1:
        batch = _room(batch, output_tokens - 1)
        with quiet(model):
            for step in range(output_tokens - 1):
                batch = _extend(model, batch, last + step)
    return Task(batch, last.unsqueeze(1) + torch.arange(output_tokens, device=last.device), first)


def _room(batch: ProbeBatch, count: int) -> ProbeBatch:
    """``count`` more columns of padding on the right."""

    def wider(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values.new_zeros(len(values), count)], 1)

    return replace(
        batch,
        input_ids=wider(batch.input_ids),
        attention_mask=wider(batch.attention_mask),
        instruction_mask=wider(batch.instruction_mask),
    )


def _extend(model: nn.Module, batch: ProbeBatch, last: torch.Tensor) -> ProbeBatch:
    """Put each sample's most likely next token behind position ``last`` ``[B]`` (in S), where padding was."""
    rows = torch.arange(len(last), device=last.device)
    patches = batch.instruction_mask.shape[1] - batch.input_ids.shape[1]
    token = forward(model, batch).logits[rows, last].argmax(-1)
    ids, mask = batch.input_ids.clone(), batch.attention_mask.clone()
    ids[rows, last + 1 - patches] = token
    mask[rows, last + 1 - patches] = 1
    return replace(batch, input_ids=ids, attention_mask=mask)
