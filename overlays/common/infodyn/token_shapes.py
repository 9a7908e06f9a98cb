"""How many rows of a module's output are each sample's, over one evaluation, and where its shapes do not tell."""

from __future__ import annotations

import torch

from .module_paths import ProbeError
from .subset import BatchFacts


class TokenShapes:
    """The outputs of one evaluation: ``[B, ..., features]``, or ``[B * T, features]``, sample after sample.

    Two shapes can mean something else. ``[B, B, features]`` may have the tokens first. The rows of ``[n, features]``
    may be those of samples of unequal lengths, though n divides by B: there T must be the batch's own (of its mask or
    its labels), or one and the same in all batches. What stays open is in ``doubts``.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._flat: dict[str, int] = {}
        self._square: dict[str, torch.Size] = {}
        self._told: set[str] = set()

    def tokens_of(self, facts: BatchFacts, shape: torch.Size, path: str) -> int:
        """T of an output of ``path``; raises ``ProbeError`` where it cannot be told.

        In a batch of one sample every row is that sample's, whatever the first dimension counts.
        """
        size = facts.size
        if size == 1:
            return shape[:-1].numel()
        if len(shape) > 2 and shape[0] == size:
            if len(shape) == 3 and shape[1] == size:
                self._square.setdefault(path, shape)
            else:
                self._told.add(path)
            tokens = shape[1:-1].numel()
            self._known.add(tokens)
            return tokens
        if len(shape) == 2 and size and shape[0] % size == 0:
            tokens = shape[0] // size
            if not any(each is not None and each.shape[1:] == (tokens,) for each in (facts.mask, facts.labels)):
                self._check_flat(tokens, shape, size, path)
            return tokens
        raise ProbeError(
            f"{path} gives {list(shape)} for a batch of {size} samples; it must be [B, ..., features] or "
            "[B * T, features]. Probe another module, or give read_batch= a function that says the batch's size"
        )

    def _check_flat(self, tokens: int, shape: torch.Size, size: int, path: str) -> None:
        before = self._flat.setdefault(path, tokens)
        if tokens != before:
            raise ProbeError(
                f"{path} gives {list(shape)} for a batch of {size} samples, and gave {before} rows a sample before: "
                "where one sample ends cannot be told. Evaluate in batches of one sample; or, if all samples of a "
                "batch have as many rows, give read_batch= a function whose mask [B, T] says so"
            )

    def doubts(self) -> list[str]:
        """What no batch has settled, a sentence for each module, with the remedy."""
        squares = [(path, shape) for path, shape in self._square.items() if path not in self._told]
        flats = [(path, n) for path, n in self._flat.items() if n > 1 and n not in self._known]
        return [
            f"{path} gives {list(shape)} for each batch of {shape[0]} samples: the first dimension is taken for the "
            "samples, but may be the tokens; evaluate with another batch size to have it checked"
            for path, shape in squares
        ] + [
            f"{path} gives [n, features]: {tokens} rows a sample are taken, but samples may have unequal numbers; "
            "give read_batch= a function whose mask is [B, T], or evaluate in batches of one sample"
            for path, tokens in flats
        ]
