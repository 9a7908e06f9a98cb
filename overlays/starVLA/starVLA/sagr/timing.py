"""Moments of a pass, and the time between them: CUDA events on a GPU, the clock elsewhere."""

from __future__ import annotations

import time

import torch


class Timer:
    """Marks moments by name; the first of a name counts.

    A mark on a GPU is an event in the current stream: it waits for nothing. Only `ms` does, so it belongs into steps
    that are logged. With `enabled=False` nothing is kept.
    """

    def __init__(self, device: torch.device | str = "cpu", enabled: bool = True) -> None:
        self.enabled = enabled
        self._gpu = torch.device(device).type == "cuda"
        self._device = device
        self._moments: dict[str, float | torch.cuda.Event] = {}

    def mark(self, name: str) -> None:
        if not self.enabled or name in self._moments:
            return
        if self._gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._moments[name] = event
        else:
            self._moments[name] = time.perf_counter()

    def __contains__(self, name: str) -> bool:
        return name in self._moments

    def ms(self, start: str, end: str) -> float:
        """Milliseconds from one moment to the other, waiting for the later one.

        Raises KeyError for a moment that was not marked.
        """
        first, last = self._moments[start], self._moments[end]
        if isinstance(first, float) or isinstance(last, float):
            return 1e3 * (last - first)
        last.synchronize()
        return first.elapsed_time(last)
