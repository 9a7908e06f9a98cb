"""What a run leaves behind in numbers: gradient norms, kept on the device until a step logs them, and metrics.jsonl.

The norms are of the gradient of the *whole* step's loss with respect to a layer's hidden states, over every token of
every micro-batch and every rank: squared norms are summed over micro-batches, summed over ranks by one all-reduce of
five numbers a layer on logging steps, and divided by the square of the number of ranks, because DDP and FSDP average
the ranks' losses. The root is written. Nothing is logged of one rank alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .ranks import Ranks

NORMS = ("g", "gf", "gp", "gn", "g_after")


class NormRecorder:
    """Squared norms by layer, gathered while ``active``; the same layers on every rank, in the same order."""

    def __init__(self, layers: Iterable[int]) -> None:
        self.active = True
        self.layers = sorted(layers)
        self._sums: dict[int, torch.Tensor] = {}

    def add(self, layer: int, squares: torch.Tensor) -> None:
        """Add a micro-batch's ``[5]`` float64 squared norms, on their device."""
        known = self._sums.get(layer)
        self._sums[layer] = squares if known is None else known + squares

    def flush(self, ranks: Ranks) -> dict[int, dict[str, float]]:
        """The norms by layer and name since the last flush; waits for the device, and for the other ranks.

        Raises ``RuntimeError`` if a layer's hook has not fired: what is not damped must not look as if it were.
        """
        silent = [layer for layer in self.layers if layer not in self._sums]
        if silent:
            raise RuntimeError(
                f"surgery: no gradient has reached the hidden state of layers {silent} in this step; nothing at or "
                "below them was trained, or the model is run past its decoder blocks"
            )
        if not self.layers:
            return {}
        total = ranks.sum(torch.stack([self._sums[layer] for layer in self.layers]))
        self._sums.clear()
        norms = (total.sqrt() / ranks.size).tolist()
        return {layer: dict(zip(NORMS, row, strict=True)) for layer, row in zip(self.layers, norms, strict=True)}


class MetricsFile:
    """``metrics.jsonl`` in the run's folder: one object a line, on the main rank, nothing before the first line.

    A new run moves an older file aside; a resumed run drops the lines of steps that it will make again. The first line
    that either writes has the run's settings, of which the folder's name is a digest, and what ``further`` says.
    """

    def __init__(
        self, path: Path, main: bool, settings: Mapping[str, Any], further: Mapping[str, Any] | None = None
    ) -> None:
        self._path, self._main, self._first = path, main, {"settings": settings, **(further or {})}
        self._resumed_at: int | None = None
        self._opened = False

    def continue_at(self, step: int) -> None:
        """The run goes on with ``step``: keep the lines before it."""
        self._resumed_at = step

    def write(self, line: dict[str, Any]) -> None:
        """Append one line. Numbers only: NaN and infinities are written as JSON's readers in Python know them."""
        if not self._main:
            return
        if not self._opened:
            self._open()
            line = {**line, **self._first}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _open(self) -> None:
        self._opened = True
        if not self._path.exists():
            return
        if self._resumed_at is None:
            os.replace(self._path, self._path.with_suffix(".previous.jsonl"))
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                known = json.loads(line)
            except json.JSONDecodeError:
                # The line that a kill cut short; it is of a step after the checkpoint, or it would be whole.
                break
            if known["step"] < self._resumed_at:
                kept.append(line)
        beside = self._path.with_suffix(".tmp")
        beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(beside, self._path)
