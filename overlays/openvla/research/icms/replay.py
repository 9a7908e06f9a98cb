"""One forward of the model, remembered; and the blocks above a layer run again from it, in a dtype that hides nothing.

A perturbation of 1e-3 added in bfloat16 to hidden states of unit variance is rounded away in nearly every entry. So
what lies above a perturbed layer is computed in float32 or float64, with the weights cast block by block: never a
second copy of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ..anatomy import Anatomy, anatomy, hidden_of
from ..probe.hidden_and_mask import ProbeBatch

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Capture:
    """What one forward left: enough to run any block again.

    ``hidden[n]``: raw output of block n, ``[B, S, D]`` in the model's dtype, for the layers asked for. ``calls[n]``:
    what block n was called with beside its hidden state. ``instruction``: bool ``[B, S]``. ``outputs``: the positions
    in S whose logits count, long ``[B, O]``.
    """

    hidden: dict[int, torch.Tensor]
    calls: dict[int, Call]
    instruction: torch.Tensor
    outputs: torch.Tensor


def forward(model: nn.Module, batch: ProbeBatch) -> Any:
    """The model's own forward on a probe batch, without a cache; pixels in the dtype of the vision backbone."""
    floats = (parameter.dtype for parameter in anatomy(model).vision.parameters() if parameter.is_floating_point())
    dtype = next(floats, torch.float32)
    pixels = batch.pixel_values
    pixels = {name: value.to(dtype) for name, value in pixels.items()} if isinstance(pixels, dict) else pixels.to(dtype)
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels, use_cache=False)


@torch.no_grad()
def capture(model: nn.Module, batch: ProbeBatch, layers: list[int], outputs: torch.Tensor) -> Capture:
    """Run the model once and keep the raw outputs of ``layers`` and the calls of every block above the lowest of them.

    ``outputs``: long ``[B, O]``, positions in S. The caller holds the model ``quiet``. Raises ``RuntimeError`` if a
    block above was not run in this forward.
    """
    blocks = anatomy(model).layers
    hidden: dict[int, torch.Tensor] = {}
    calls: dict[int, Call] = {}
    handles = []
    try:
        for n in layers:
            handles.append(blocks[n].register_forward_hook(_keep_output(hidden, n)))
        for n in range(min(layers) + 1, len(blocks)):
            handles.append(blocks[n].register_forward_pre_hook(_keep_call(calls, n), with_kwargs=True))
        forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    missed = sorted({*layers} - {*hidden} | {*range(min(layers) + 1, len(blocks))} - {*calls})
    if missed:
        raise RuntimeError(f"the forward of {type(model).__name__} did not run decoder blocks {missed}")
    return Capture(hidden, calls, batch.instruction_mask, outputs)


def _keep_output(into: dict[int, torch.Tensor], n: int) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        into[n] = hidden_of(output).detach()

    return hook


def _keep_call(into: dict[int, Call], n: int) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        # A cache that was filled by this forward would make the block attend to every token twice when it runs again.
        rest = {name: None if name.startswith("past_key_value") else value for name, value in rest.items()}
        if "use_cache" in rest:
            rest["use_cache"] = False
        into[n] = (tuple(None if _is_cache(value) else value for value in args[1:]), rest)

    return hook


def _is_cache(value: Any) -> bool:
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


class Upper:
    """The blocks above a layer, the final norm and the language-model head, in ``dtype``.

    Raises ``TypeError`` for weights that are not floating point (a quantised model cannot be cast).
    """

    def __init__(self, parts: Anatomy, dtype: torch.dtype) -> None:
        self.parts = parts
        self.dtype = dtype
        for name, parameter in parts.decoder.named_parameters():
            if not parameter.is_floating_point():
                raise TypeError(f"{name} is {parameter.dtype}: load the teacher without 4-bit or 8-bit quantisation")

    def logits(
        self, start: int, hidden: torch.Tensor, seen: Capture, shifts: Mapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits ``[R, O, vocabulary]`` in ``dtype`` from the raw output ``hidden`` of block ``start``.

        ``hidden``: ``[R, S, D]`` where R is a multiple of the captured B, samples fastest. ``shifts[n]``: ``[R, D]``,
        added to the state of every instruction token of layer n (n >= ``start``).
        """
        shifts = shifts or {}
        times = len(hidden) // len(seen.outputs)
        instruction = seen.instruction.repeat(times, 1).unsqueeze(-1)

        def shifted(state: torch.Tensor, n: int) -> torch.Tensor:
            return state + instruction * shifts[n].unsqueeze(1) if n in shifts else state

        state = shifted(hidden.to(self.dtype), start)
        for n in range(start + 1, self.parts.num_layers):
            args, kwargs = (self._fit(part, times, len(seen.outputs)) for part in seen.calls[n])
            state = shifted(self._run(self.parts.layers[n], state, *args, **kwargs), n)
        rows = torch.arange(len(state), device=state.device).unsqueeze(1)
        state = state[rows, seen.outputs.repeat(times, 1)]
        return self._run(self.parts.lm_head, self._run(self.parts.norm, state))

    def _run(self, module: nn.Module, state: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if all(parameter.dtype == self.dtype for parameter in module.parameters()):
            return hidden_of(module(state, *args, **kwargs))

        def cast(state: torch.Tensor) -> torch.Tensor:
            weights = {name: parameter.to(self.dtype) for name, parameter in module.named_parameters()}
            return hidden_of(functional_call(module, weights, (state, *args), kwargs))

        # The graph would keep the cast weights of every block at once; the backward casts them again instead.
        if torch.is_grad_enabled():
            return checkpoint(cast, state, use_reentrant=False, preserve_rng_state=False)
        return cast(state)

    def _fit(self, value: Any, times: int, batch: int) -> Any:
        """What was captured for B samples, for ``times`` B rows in the compute dtype; what has no batch stays."""
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                value = value.to(self.dtype)
            per_sample = value.ndim >= 2 and value.shape[0] == batch
            return value.repeat(times, *[1] * (value.ndim - 1)) if per_sample and times > 1 else value
        if isinstance(value, (tuple, list)):
            return type(value)(self._fit(entry, times, batch) for entry in value)
        if isinstance(value, dict):
            return {name: self._fit(entry, times, batch) for name, entry in value.items()}
        return value
