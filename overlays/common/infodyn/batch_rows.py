"""Where the subset's tokens lie in one batch, for modules with one vector a token and with one a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .module_paths import ProbeError
from .subset import NO_LABEL, BatchFacts, choose_tokens


@dataclass(frozen=True)
class Selection:
    """Rows of a module's output ``[B * T, features]`` and what they are; see ``Rows.add``."""

    flat: Tensor
    samples: list[int]
    tokens: list[int]
    labels: Tensor | None


class BatchRows:
    """One batch: ``numbers`` are its samples' in the validation set, None for one that is there again as padding."""

    def __init__(
        self, facts: BatchFacts, numbers: Sequence[int | None], chosen: frozenset[int], tokens: int, seed: int
    ) -> None:
        self.facts, self.numbers, self._tokens, self._seed = facts, numbers, tokens, seed
        self.picked = [(row, number) for row, number in enumerate(numbers) if number in chosen and number is not None]
        self.seen: set[str] = set()
        self._selections: dict[int, Selection] = {}
        self._weights: dict[tuple[int, torch.device, int], Tensor] = {}

    def selection(self, tokens: int, path: str) -> Selection:
        """The subset's rows for modules of ``tokens`` tokens a sample."""
        if tokens not in self._selections:
            self._selections[tokens] = self._select(tokens, path)
        return self._selections[tokens]

    def weights(self, tokens: int, device: torch.device, path: str, each: int) -> Tensor:
        """``[B * T * each]`` int64, ``each`` times 1 for a token that counts: no padding, in a sample that is not there
        again.
        """
        key = (tokens, device, each)
        if key not in self._weights:
            mask = self._mask(tokens, path)
            real = torch.tensor([number is not None for number in self.numbers], device=device)[:, None]
            kept = real.expand(-1, tokens) if mask is None else (mask.to(device) != 0) & real
            self._weights[key] = kept.reshape(-1).long().repeat_interleave(each)
        return self._weights[key]

    def _mask(self, tokens: int, path: str) -> Tensor | None:
        mask = self.facts.mask
        if mask is None or tokens == 1:
            return None
        if mask.shape != (self.facts.size, tokens):
            raise ProbeError(
                f"{path} has {tokens} tokens a sample, but the batch's mask is {list(mask.shape)}; give read_batch= a "
                "function whose mask fits, or that gives none"
            )
        return mask

    def _select(self, tokens: int, path: str) -> Selection:
        rows: list[int] = []
        columns: list[int] = []
        samples: list[int] = []
        ordinals: list[int] = []
        mask = self._mask(tokens, path) if self.picked else None
        mask = None if mask is None else mask.cpu()
        for row, sample in self.picked:
            if tokens == 1:
                found, kept = [0], [-1]
            else:
                real = torch.arange(tokens) if mask is None else mask[row].nonzero().flatten()
                kept = choose_tokens(len(real), self._tokens, self._seed, sample)
                found = real[kept].tolist()
            rows += [row] * len(found)
            columns += found
            samples += [sample] * len(found)
            ordinals += kept
        flat = torch.tensor(rows, dtype=torch.int64) * tokens + torch.tensor(columns, dtype=torch.int64)
        return Selection(flat, samples, ordinals, self._labels(tokens, rows, columns))

    def _labels(self, tokens: int, rows: list[int], columns: list[int]) -> Tensor | None:
        labels = self.facts.labels
        if labels is None:
            return torch.full((len(rows),), NO_LABEL)
        if labels.ndim == 1:
            return labels[rows].cpu()
        if labels.shape == (self.facts.size, tokens):
            return labels[rows, columns].cpu()
        return None
