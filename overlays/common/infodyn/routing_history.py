"""Memory of routing: what a task's experts were in the epochs before, and a pull back to it where the model is unsure.

    loss = weight * mean over layers of KL(p || PI p + (1 - PI) h)

p: the current batch's mean routing distribution; h: the mean of the last ``window`` epochs' mean distributions of this
task and layer (IPWT/PILF). A model of high predictive integrity is left alone, PI = 1 gives exactly 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .memory_gaussian_moe import GaussianRouting


def mixture_kl(current: Tensor, history: Tensor, pi: float) -> Tensor:
    """KL(current || pi current + (1 - pi) history) in nats; the gradient goes through both places of ``current``.

    Both ``[..., E]``, probabilities along the last axis -> ``[...]``, float32 at least. Raises ValueError for pi
    outside [0, 1].
    """
    if not 0.0 <= pi <= 1.0:
        raise ValueError(f"predictive integrity is {pi}; it must be between 0 and 1")
    dtype = torch.promote_types(current.dtype, torch.float32)
    current, history = current.to(dtype), history.to(current.device, dtype)
    mixture = pi * current + (1 - pi) * history
    # An expert's probability may have been rounded to 0: then log would give a NaN gradient.
    tiny = torch.finfo(dtype).tiny
    return (current * (current.clamp_min(tiny).log() - mixture.clamp_min(tiny).log())).sum(-1)


class RoutingHistory:
    """Mean routing distributions by task and layer, and the loss that pulls towards them. ::

        history.watch(model)
        with history.recording(task):
            loss = model(batch).loss
        loss = loss + history.loss(pi)      # then backward
        ...
        history.end_epoch()

    A batch belongs to one task. Gradient checkpointing must be the kind with ``use_reentrant=False``, under which a
    recorded forward has a graph; the reentrant kind runs it without one, and ``loss`` says so. Raises ValueError for a
    window below 1 or a negative weight.
    """

    def __init__(self, window: int = 10, weight: float = 0.1) -> None:
        if window < 1 or weight < 0:
            raise ValueError(f"routing history: window is {window}, weight {weight}; they must be at least 1 and 0")
        self.window, self.weight = window, weight
        self._epochs: dict[str, dict[str, deque[Tensor]]] = {}
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._batch: dict[str, Tensor] = {}
        self._task: str | None = None
        self._recording = False
        self._outputs: list[tuple[str, Tensor]] = []
        self._without_graph: list[str] = []
        self._hooks: list[Any] = []

    def watch(self, model: nn.Module) -> list[str]:
        """Listens to every Gaussian router of ``model``; their module paths. Raises ValueError where there is none."""
        self.close()
        names = [name for name, module in model.named_modules() if isinstance(module, GaussianRouting)]
        if not names:
            raise ValueError("routing history: the model has no Gaussian router; call use_gaussian_routing on it first")
        for name in names:
            self._hooks.append(model.get_submodule(name).register_forward_hook(self._hook(name)))
        return names

    def close(self) -> None:
        """Takes the hooks out of the model."""
        while self._hooks:
            self._hooks.pop().remove()

    def _hook(self, layer: str) -> Any:
        def observe(module: nn.Module, arguments: Any, output: tuple[Tensor, ...]) -> None:
            # Gradient checkpointing runs the forward a second time in the backward: not while recording. What is
            # computed here would be missing there (CheckpointError), so outputs are only kept.
            if self._recording:
                self._outputs.append((layer, output[0]))
                if not torch.is_grad_enabled():
                    self._without_graph.append(layer)

        return observe

    def _add(self, layer: str, probabilities: Tensor, mask: Tensor | None) -> None:
        """Adds a layer's routing probabilities ``[N, E]`` to the batch."""
        if mask is not None:
            if mask.numel() != len(probabilities):
                raise ValueError(
                    f"routing history: the mask has {mask.numel()} places, {layer} routed {len(probabilities)} tokens"
                )
            probabilities = probabilities[mask.to(probabilities.device).flatten().bool()]
        # Sum and count in one tensor: the mean is taken where it is used.
        counted = torch.cat([probabilities.sum(0), probabilities.new_tensor([float(len(probabilities))])])
        self._batch[layer] = self._batch[layer] + counted if layer in self._batch else counted

    @contextmanager
    def recording(self, task: str, mask: Tensor | None = None) -> Iterator[None]:
        """Records the forward passes inside for ``task``; ``mask`` (any shape, N places) is 0 for padding.

        Raises ValueError, at the end, for a mask that does not fit.
        """
        self._task, self._batch, self._outputs, self._without_graph, self._recording = task, {}, [], [], True
        try:
            yield
        finally:
            self._recording, outputs, self._outputs = False, self._outputs, []
        for layer, probabilities in outputs:
            self._add(layer, probabilities, mask)
        sums = self._sums.setdefault(task, {})
        for layer, counted in self._batch.items():
            # An epoch's sum over many tokens outgrows float32's steps.
            seen = counted.detach().double()
            sums[layer] = sums[layer].to(seen.device) + seen if layer in sums else seen

    def loss(self, pi: float) -> Tensor:
        """The weighted KL of what was recorded last, a scalar with a graph; 0 where its task has no history yet.

        Raises RuntimeError where nothing was recorded, or without a graph: it would teach nothing.
        """
        if self._task is None or not self._batch:
            raise RuntimeError("routing history: no forward of a watched model ran in `with history.recording(task)`")
        if torch.is_grad_enabled():
            if self._without_graph:
                raise RuntimeError(
                    f"routing history: {self._without_graph[0]} ran without a graph, so the loss would teach it "
                    "nothing: that is how reentrant gradient checkpointing runs it; set use_reentrant=False"
                )
            if not any(counted.requires_grad for counted in self._batch.values()):
                raise RuntimeError(
                    "routing history: the routers and all that they depend on are frozen; the loss would teach nothing"
                )
        terms = []
        for layer, counted in self._batch.items():
            past = self.history(self._task, layer)
            terms.append(
                counted.new_zeros(()) if past is None else mixture_kl(counted[:-1] / counted[-1].clamp_min(1), past, pi)
            )
        return self.weight * torch.stack([term.to(terms[0].device) for term in terms]).mean()

    def history(self, task: str, layer: str) -> Tensor | None:
        """The mean ``[E]`` of the kept epochs' distributions, float64; None where there is no epoch yet."""
        epochs = self._epochs.get(task, {}).get(layer)
        return torch.stack(list(epochs)).mean(0) if epochs else None

    def end_epoch(self) -> None:
        """Turns the sums since the last call into one more epoch of every task seen; over all ranks, equal on each."""
        own = {task: {layer: counted.cpu() for layer, counted in sums.items()} for task, sums in self._sums.items()}
        parts: list[dict[str, dict[str, Tensor]]] = [own]
        if distributed.is_available() and distributed.is_initialized():
            parts = [{}] * distributed.get_world_size()
            distributed.all_gather_object(parts, own)
        for task in dict.fromkeys(task for part in parts for task in part):
            layers = self._epochs.setdefault(task, {})
            for layer in dict.fromkeys(layer for part in parts for layer in part.get(task, {})):
                total = sum(part[task][layer] for part in parts if layer in part.get(task, {}))
                if total[-1] > 0:
                    layers.setdefault(layer, deque(maxlen=self.window)).append(total[:-1] / total[-1])
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors: ``torch.load(weights_only=True)`` reads it. What one epoch has summed so far is
        in it, so that a run stopped inside an epoch goes on as it would have."""
        return {
            "window": self.window,
            "epochs": {task: {name: list(kept) for name, kept in of.items()} for task, of in self._epochs.items()},
            "sums": {task: dict(sums) for task, sums in self._sums.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved history; the weight and the window stay this one's own."""
        self._epochs = {
            task: {name: deque((row.cpu() for row in kept), maxlen=self.window) for name, kept in of.items()}
            for task, of in state["epochs"].items()
        }
        self._sums = {task: dict(sums) for task, sums in state["sums"].items()}
        self._batch, self._task = {}, None
