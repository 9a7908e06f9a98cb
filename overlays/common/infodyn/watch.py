"""The forward hooks of one evaluation: what they keep and count while batches go through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .batch_rows import BatchRows, Selection
from .module_paths import ProbeError
from .moe_layers import MoELayer
from .routed import activation_in, chosen_experts, expert_alone, indices_in
from .rows import Ranks, Rows
from .subset import BatchFacts
from .token_shapes import TokenShapes

Batch = TypeVar("Batch")
DEALT = ("batches", "samples", "whole")
# Experts are asked for so many rows at once: for the few of one batch, their weights would be read for little work.
_AT_ONCE = 256


class Watch:
    """Hooks on the modules of all probes.

    The number of each sample follows from the order in which batches come and from ``dealt``: ``batches``, whole ones
    to the ranks in turn (accelerate, and so transformers' Trainer); ``samples``, single ones in turn
    (DistributedSampler); ``whole``, all to every rank, of which the first is heard. Samples that a loader repeats to
    fill a batch are left out. Without modules (an epoch that is not probed) nothing is read.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        plain: Sequence[str],
        layers: Sequence[MoELayer],
        experts: Sequence[str],
        chosen: Sequence[int],
        samples: int,
        tokens: int,
        seed: int,
        dealt: str,
        ranks: Ranks,
        read_batch: Callable[[Any], BatchFacts],
    ) -> None:
        self._modules, self._plain, self._layers = modules, plain, layers
        self._ranks, self._dealt, self._read = ranks, dealt, read_batch
        self._heard = ranks.rank == 0 or dealt != "whole"
        self._samples, self._chosen, self._tokens, self._seed = samples, frozenset(chosen), tokens, seed
        self._wanted = {
            layer.experts: [(i, path) for i, path in enumerate(layer.paths) if path in experts] for layer in layers
        }
        capacity = len(chosen) * tokens
        self.rows = {path: Rows(capacity) for path in [*plain, *experts]}
        self.routed = {layer.experts: Rows(capacity) for layer in layers}
        self._counts: dict[str, Tensor] = {}
        self._router_outputs: dict[str, Any] = {}
        self._expected: dict[str, Tensor] = {}
        self._checked: set[str] = set()
        self.shapes = TokenShapes()
        self._batch: BatchRows | None = None
        self._alone = self._more = False
        self._begun = self.read = self.batch_size = 0
        self._pending: dict[str, list[tuple[Tensor, Selection]]] = {}

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of ``loader``, each announced before it is given out."""
        for batch in loader:
            self.begin_batch(batch)
            yield batch
        self._batch = None

    def begin_batch(self, batch: Any) -> None:
        """Announces the batch that goes through the model next, for a loop that ``batches`` cannot wrap."""
        if not self._modules:
            return
        facts = self._read(batch)
        self.batch_size = self.batch_size or facts.size
        if self._dealt == "batches" and self._ranks.size > 1:
            if self.read != self._begun * self.batch_size or facts.size > self.batch_size:
                raise ProbeError(
                    f"batches of {self.batch_size} samples and of others: which samples they are cannot be told on "
                    f"{self._ranks.size} ranks; evaluate with batches of one size"
                )
            first = (self._begun * self._ranks.size + self._ranks.rank) * self.batch_size
            numbers = range(first, first + facts.size)
        else:
            size, rank = (self._ranks.size, self._ranks.rank) if self._dealt == "samples" else (1, 0)
            numbers = range(self.read * size + rank, (self.read + facts.size) * size + rank, size)
        self._begun, self.read = self._begun + 1, self.read + facts.size
        real = [number if self._heard and number < self._samples else None for number in numbers]
        self._batch = BatchRows(facts, real, self._chosen, self._tokens, self._seed)
        self._more = self._to_come()
        self._router_outputs.clear()
        self._expected.clear()

    def _to_come(self) -> bool:
        """Whether a later batch of this rank has samples of the subset."""
        size, rank = self._ranks.size, self._ranks.rank
        if self._dealt == "batches" and size > 1:
            mine = [number for number in self._chosen if number // self.batch_size % size == rank]
            return any(number >= self._begun * size * self.batch_size for number in mine)
        if self._dealt == "samples":
            return any(number % size == rank and number >= self.read * size for number in self._chosen)
        return any(number >= self.read for number in self._chosen)

    def install(self, hooks: ExitStack) -> None:
        """Registers the forward hooks; closing ``hooks`` takes each of them away."""
        for path in self._plain:
            self._hook(hooks, path, partial(self._on_module, path))
        for layer in self._layers:
            if layer.router is not None:
                self._hook(hooks, layer.router, partial(self._on_router, layer))
            if layer.fused:
                self._hook(hooks, layer.experts, partial(self._on_fused, layer))
                continue
            for _, path in self._wanted[layer.experts]:
                check = partial(self._check_input, path, layer)
                hooks.callback(self._modules[path].register_forward_pre_hook(check, with_kwargs=True).remove)

    def _hook(self, hooks: ExitStack, path: str, hook: Callable[..., None]) -> None:
        hooks.callback(self._modules[path].register_forward_hook(hook, with_kwargs=True).remove)

    def counts(self) -> dict[str, list[int]]:
        """How often each expert was active on this rank, by the experts' path, in the order of their indices."""
        number = {layer.experts: len(layer.names) for layer in self._layers}
        nothing = torch.zeros(max(number.values(), default=0) + 1, dtype=torch.int64)
        return {path: self._counts.get(path, nothing)[1 : n + 1].tolist() for path, n in number.items()}

    def _current(self, module: nn.Module, path: str) -> BatchRows | None:
        if self._alone:
            return None
        if self._batch is None:
            raise ProbeError(f"{path} ran, but no batch was announced; take them from watch.batches(loader)")
        if module.training:
            raise ProbeError(f"{path} ran in training mode under a probe; call model.eval() first")
        return self._batch

    @torch.no_grad()
    def _keep(self, batch: BatchRows, rows: Rows, path: str, values: Tensor, tokens: int) -> None:
        if path in batch.seen:
            raise ProbeError(
                f"{path} ran twice in one batch, so which of its outputs is meant is open; evaluate by one forward a "
                "batch (not by generating), and probe modules that are not shared"
            )
        batch.seen.add(path)
        found = batch.selection(tokens, path)
        if found.samples:
            kept = values.reshape(-1, values.shape[-1]).index_select(0, found.flat.to(values.device))
            rows.add(kept, found.samples, found.tokens, found.labels)

    def _on_module(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        batch = self._current(module, path)
        if batch is None:
            return
        values = activation_in(output)
        if values is None:
            raise ProbeError(f"{path} gives no floating tensor of two dimensions or more; probe another module")
        self._keep(batch, self.rows[path], path, values, self.shapes.tokens_of(batch.facts, values.shape, path))

    def _on_router(self, layer: MoELayer, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        batch = self._current(module, layer.router or "")
        if batch is None:
            return
        if layer.fused:
            self._router_outputs[layer.experts] = output
            return
        indices = chosen_experts(output, len(layer.names), layer.top_k, layer.router or "")
        hidden = activation_in([*args, *kwargs.values()])
        tokens = self._route(batch, layer, indices, hidden)
        if batch.picked and hidden is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1])
            if layer.experts not in self._checked:
                self._checked.add(layer.experts)
                for index, path in self._wanted[layer.experts]:
                    self._expected[path] = hidden[(indices == index).any(-1)].double().sum(0)
            self._evaluate(batch, layer, hidden, tokens, lambda rows, index, path: self._modules[path](rows))

    def _on_fused(self, layer: MoELayer, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        batch = self._current(module, layer.experts)
        if batch is None:
            return
        number, given = len(layer.names), [*args, *kwargs.values()]
        routed = self._router_outputs.pop(layer.experts, None)
        indices = indices_in(given, number, layer.top_k)
        if indices is None:
            # Experts that are given weights alone: their router knows.
            if routed is None:
                raise ProbeError(f"{layer.experts} is called without indices, and no router beside it was recognised")
            indices = chosen_experts(routed, number, layer.top_k, layer.router or "")
        hidden = activation_in(given)
        tokens = self._route(batch, layer, indices, hidden)
        if batch.picked and hidden is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1])
            alone = partial(expert_alone, module, args, kwargs)
            self._evaluate(batch, layer, hidden, tokens, lambda rows, index, path: alone(rows, index, number))

    def _route(self, batch: BatchRows, layer: MoELayer, indices: Tensor, hidden: Tensor | None) -> int:
        path, number, shape = layer.experts, len(layer.names), indices.shape
        # Choices have lost the batch's dimensions; what they are made from often has them still.
        if hidden is not None and len(hidden) == batch.facts.size and hidden.shape[:-1].numel() == len(indices):
            shape = hidden.shape
        tokens = self.shapes.tokens_of(batch.facts, shape, layer.router or path)
        if path not in self._counts:
            with torch.inference_mode(False):
                self._counts[path] = torch.zeros(number + 2, dtype=torch.int64, device=indices.device)
        # First and last place are for choices of no expert: dropped tokens, and padding that some backends choose.
        places = (indices.clamp(-1, number) + 1).reshape(-1)
        self._counts[path].index_add_(0, places, batch.weights(tokens, indices.device, path, indices.shape[-1]))
        if batch.picked:
            indices = indices.masked_fill((indices < 0) | (indices >= number), -1)
        self._keep(batch, self.routed[path], path + " (routing)", indices, tokens)
        return tokens

    @torch.no_grad()
    def _evaluate(
        self, batch: BatchRows, layer: MoELayer, hidden: Tensor, tokens: int, alone: Callable[[Tensor, int, str], Any]
    ) -> None:
        """Each wanted expert on the subset's rows, whether they were routed to it or not.

        Rows wait until there are enough, or no more will come: the last are evaluated while a forward is still under
        way, when a sharded model has its weights.
        """
        if not self._wanted[layer.experts]:
            return
        if len(hidden) != batch.facts.size * tokens:
            raise ProbeError(
                f"{layer.experts}: {len(hidden)} hidden states for {batch.facts.size} samples of {tokens} tokens, so "
                "which token is which cannot be told; probe the block"
            )
        found = batch.selection(tokens, layer.experts)
        pending = self._pending.setdefault(layer.experts, [])
        pending.append((hidden.index_select(0, found.flat.to(hidden.device)), found))
        if self._more and sum(len(rows) for rows, _ in pending) < _AT_ONCE:
            return
        rows = torch.cat([rows for rows, _ in pending])
        self._alone = True
        try:
            for index, path in self._wanted[layer.experts]:
                values = activation_in(alone(rows, index, path))
                if values is None or len(values) != len(rows):
                    raise ProbeError(f"{path}, asked for {len(rows)} tokens alone, does not give a row for each")
                parts = values.split([len(part) for part, _ in pending])
                for part, (_, found) in zip(parts, pending, strict=True):
                    self.rows[path].add(part, found.samples, found.tokens, found.labels)
        finally:
            self._alone = False
        pending.clear()

    def _check_input(self, path: str, layer: MoELayer, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Once for each layer: an expert is really given what its router is given, for the tokens routed to it."""
        if self._alone or path not in self._expected:
            return
        expected, given = self._expected.pop(path), activation_in([*args, *kwargs.values()])
        total = None if given is None else given.reshape(-1, given.shape[-1]).double().sum(0)
        # A diverged model's NaN is its activation like any other, and no sign of other hidden states.
        alike = {"rtol": 1e-6, "atol": 1e-6, "equal_nan": True}
        if total is None or total.shape != expected.shape or not torch.allclose(total, expected, **alike):
            raise ProbeError(
                f"{path} is not given the hidden states that {layer.router} is given for the tokens it routes there "
                "(they are scaled, dropped or normed in between), so it cannot be evaluated alone; probe the block"
            )
