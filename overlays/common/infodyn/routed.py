"""Which experts a token goes to, read from what a router gives or fused experts are given; and one expert alone.

Routers give logits; or a tuple of logits, scores or weights and indices, in whatever order; or a mask of one-hot rows.
Fused experts are given hidden states, indices and weights. They are told apart by type and shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .module_paths import ProbeError


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and mappings (a library's model output is one), in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def activation_in(value: Any) -> Tensor | None:
    """The first floating tensor of two dimensions or more: what a module computes, where it returns several things."""
    return next((each for each in tensors_in(value) if each.is_floating_point() and each.ndim >= 2), None)


def indices_in(value: Any, num_experts: int, top_k: int | None) -> Tensor | None:
    """Indices ``[tokens, k]`` int64 that ``value`` holds as such or as a mask of ones; -1 where fewer are chosen."""
    for each in tensors_in(value):
        if each.is_floating_point() or each.ndim < 2:
            continue
        width = each.shape[-1]
        if width == num_experts and top_k != num_experts:
            mask = each.reshape(-1, width).int()
            chosen, indices = mask.topk(top_k or max(int(mask.sum(-1).max()), 1))
            return indices.masked_fill(chosen == 0, -1)
        if each.dtype != torch.bool and width == (top_k or width) and width <= num_experts:
            return each.reshape(-1, width).long()
    return None


def chosen_experts(output: Any, num_experts: int, top_k: int | None, router: str) -> Tensor:
    """Indices ``[tokens, k]`` int64 of the experts that a router's ``output`` chooses.

    Indices where it has them; else the ``top_k`` largest of the logits or scores ``[..., num_experts]``. ``router``
    begins the error. Raises ``ProbeError`` where neither is there, or logits without ``top_k``.
    """
    indices = indices_in(output, num_experts, top_k)
    if indices is not None:
        return indices
    logits = next((each for each in tensors_in(output) if each.ndim >= 2 and each.shape[-1] == num_experts), None)
    if logits is None:
        shapes = [list(each.shape) for each in tensors_in(output)]
        raise ProbeError(f"router {router} gives {shapes}: neither indices [tokens, k] nor logits [..., {num_experts}]")
    if top_k is None:
        raise ProbeError(
            f"router {router} gives logits alone, and neither it, its block nor their configuration says top_k "
            "(or num_experts_per_tok); set router.top_k"
        )
    return logits.reshape(-1, num_experts).topk(top_k).indices


def expert_alone(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], rows: Tensor, expert: int, num_experts: int
) -> Tensor:
    """What one of fused experts makes of ``rows [n, D]``: ``[n, D_out]``, its weight being 1.

    ``args`` and ``kwargs`` are those of the call that is under way, of which hidden states, indices and weights are
    replaced. Raises ``ProbeError`` where the call names no indices: then an expert cannot be asked for alone.
    """
    values = [*args, *kwargs.values()]
    hidden = activation_in(values)
    indices = next((each for each in values if isinstance(each, Tensor) and not each.is_floating_point()), None)
    if hidden is None or indices is None or indices.ndim < 2:
        raise ProbeError(
            f"the fused experts {type(module).__name__} are called without hidden states and indices [tokens, k], so "
            "that one expert cannot be asked for alone; probe their block instead"
        )
    shape = (*(1,) * (hidden.ndim - 2), len(rows), hidden.shape[-1])
    one = torch.nn.functional.one_hot(torch.tensor([expert], device=rows.device), num_experts).expand(len(rows), -1)
    # With as many choices as experts, a weight's place is an expert's either way it is read.
    every = indices.shape[-1] == num_experts
    index = (
        torch.arange(num_experts, device=one.device).expand(len(rows), -1) if every else one.argmax(-1, keepdim=True)
    )

    def alone(value: Any) -> Any:
        if value is hidden:
            return rows.to(hidden.dtype).reshape(shape)
        if value is indices:
            return index.to(indices.dtype)
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            wide = value.shape[-1] == num_experts
            return one.to(value.dtype) if wide else value.new_ones(len(rows), 1)
        return value

    output = activation_in(module(*map(alone, args), **{name: alone(value) for name, value in kwargs.items()}))
    if output is None:
        raise ProbeError(f"the fused experts {type(module).__name__} give no floating tensor")
    return output.reshape(-1, output.shape[-1])
