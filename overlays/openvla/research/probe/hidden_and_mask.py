"""Raw hidden states of chosen layers on probe data, and their mean over the instruction's tokens.

The forward stops at the highest layer that is asked for: the decoder is lent only the blocks up to it, and the head
sees one position. No exception unwinds the forward, since that leaves FSDP unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..anatomy import Anatomy, anatomy, hidden_of
from .batch import ProbeBatch, collate
from .sharding import sharded_again
from .spans import instruction_span, prompt_tokens
from .template import Template, prompt_builder_for, prompt_for, template_of

__all__ = [
    "ProbeBatch",
    "Template",
    "collate",
    "instruction_span",
    "pooled_states",
    "prompt_builder_for",
    "prompt_for",
    "prompt_tokens",
    "run_to",
    "template_of",
]


def run_to(
    model: nn.Module, batch: ProbeBatch, layers: Sequence[int], *, stop_early: bool = True
) -> dict[int, torch.Tensor]:
    """Raw outputs ``[B, S, D]`` of decoder blocks ``layers`` (0-based), in the model's dtype, without a graph.

    The model may be wrapped in DDP, PEFT and FSDP; under FSDP every rank has to call this equally often. It runs in
    evaluation mode, without gradients and under the caller's autocast; training flags, random state and gradients are
    afterwards what they were. ``stop_early=False`` runs every block.

    Raises ``ValueError`` for a layer that the model does not have, ``RuntimeError`` if the forward did not reach one.
    """
    return _run(model, batch, layers, stop_early, lambda hidden: hidden)


def pooled_states(
    model: nn.Module, batch: ProbeBatch, layers: Sequence[int], *, stop_early: bool = True
) -> dict[int, torch.Tensor]:
    """Mean of the raw outputs of ``layers`` over each sample's instruction tokens, float32 ``[B, D]``, summed so.

    As ``run_to`` otherwise. Raises ``ValueError`` for a sample without instruction tokens.
    """
    counts = batch.instruction_mask.sum(dim=1)
    if bool((counts == 0).any()):
        empty = [name for name, count in zip(batch.ids, counts.tolist(), strict=True) if not count]
        raise ValueError(f"probe samples {', '.join(empty)} have no instruction tokens to pool over")

    def pool(hidden: torch.Tensor) -> torch.Tensor:
        mask = batch.instruction_mask.to(hidden.device).unsqueeze(-1)
        # Not a product with the mask: autocast would take it to half precision, and 0 times inf is nan.
        total = torch.where(mask, hidden.float(), 0.0).sum(dim=1)
        return total / counts.to(hidden.device).unsqueeze(-1)

    return _run(model, batch, layers, stop_early, pool)


def _run(
    model: nn.Module,
    batch: ProbeBatch,
    layers: Sequence[int],
    stop_early: bool,
    take: Callable[[torch.Tensor], torch.Tensor],
) -> dict[int, torch.Tensor]:
    parts = anatomy(model)
    wanted = sorted(set(layers))
    if not wanted or wanted[0] < 0 or wanted[-1] >= parts.num_layers:
        raise ValueError(f"layers {wanted} of a model that has layers 0 to {parts.num_layers - 1}")
    # DDP's forward may broadcast buffers and would wait for ranks that do not probe.
    while isinstance(model, DistributedDataParallel):
        model = model.module

    found: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[layer] = take(hidden_of(output).detach())

        return hook

    weight = _weight(parts)
    batch = batch.to(weight.device)
    pixels = batch.pixel_values
    pixels = (
        {name: part.to(weight.dtype) for name, part in pixels.items()}
        if isinstance(pixels, dict)
        else pixels.to(weight.dtype)
    )
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluating(model, weight.device))
        stack.enter_context(sharded_again(model))
        if stop_early:
            stack.enter_context(_only_up_to(parts, wanted[-1]))
        for layer in wanted:
            stack.callback(parts.layers[layer].register_forward_hook(keep(layer)).remove)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels, use_cache=False)
    if missing := sorted(set(wanted) - set(found)):
        raise RuntimeError(f"the forward of {type(model).__name__} did not run decoder blocks {missing}")
    return found


def _weight(parts: Anatomy) -> torch.Tensor:
    """A weight of the vision backbone: pictures go to its device in its dtype, as upstream's finetune.py casts them."""
    return next(parameter for parameter in parts.vision.parameters() if parameter.is_floating_point())


class _FirstBlocks(nn.ModuleList):
    """The decoder's blocks, all of them to whoever walks the modules, only the first ones to whoever runs them.

    FSDP collects its units by walking the modules in its first forward; a block that is not found then is left out of
    the gradient clipping for good.
    """

    def __init__(self, blocks: nn.ModuleList, count: int) -> None:
        super().__init__()
        self.count = 0  # where ``extend`` begins to number
        self.extend(blocks)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(super().__iter__(), self.count)

    def __getitem__(self, index: Any) -> Any:
        found = list(self)[index]
        return nn.ModuleList(found) if isinstance(index, slice) else found


@contextmanager
def _only_up_to(parts: Anatomy, last: int) -> Iterator[None]:
    """Lend the decoder its blocks up to ``last``, and the head the last position, so that no logits fill the memory."""

    def last_position(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -1:], *args[1:])

    handle = parts.lm_head.register_forward_pre_hook(last_position)
    parts.decoder.layers = _FirstBlocks(parts.layers, last + 1)
    try:
        yield
    finally:
        parts.decoder.layers = parts.layers
        handle.remove()


@contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, with every module's own flag, the random state and autocast's memory put back afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        # Older torch would hand the weights that autocast cast here, without a graph, to a training forward in the same
        # autocast block.
        torch.clear_autocast_cache()
