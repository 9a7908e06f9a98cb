"""Vulnerability by doing it: add each direction, run the layers above again, measure the divergence. The reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ..anatomy import anatomy
from .quiet import quiet
from .replay import Capture, Upper, capture
from .vulnerability import Directions, Task, Vulnerability, kl_divergence


@torch.no_grad()
def finite_difference(
    model: nn.Module,
    tasks: Iterable[Task],
    directions: Mapping[int, Directions],
    *,
    epsilon: float,
    dtype: torch.dtype = torch.float32,
    rows: int = 64,
) -> dict[int, Vulnerability]:
    """The vulnerability of every direction of every layer in ``directions``, see ``vulnerability``.

    One forward a batch; then only the blocks above a layer run again, in ``dtype``, up to ``rows`` perturbed samples
    at a time. Each direction is taken with both signs and the two divergences are averaged: KL is even in the change
    only to second order, and the average removes the third-order term, so what is left deviates by O(epsilon^2)
    relatively and does not depend on the arbitrary sign of a singular vector.
    """
    layers = sorted(directions)
    totals = {n: torch.zeros(directions[n].basis.shape[1], dtype=torch.float64) for n in layers}
    upper = Upper(anatomy(model), dtype)
    count = 0
    with quiet(model):
        for task in tasks:
            seen = capture(model, task.batch, layers, task.outputs)
            count += len(task.outputs)
            for n in layers:
                steps = directions[n].basis.T * directions[n].delta(epsilon)
                totals[n] += _batch(upper, seen, n, steps.to(seen.outputs.device, dtype), rows)
    return {n: Vulnerability(totals[n] / count, torch.zeros_like(totals[n])) for n in layers}


def _batch(upper: Upper, seen: Capture, n: int, steps: torch.Tensor, rows: int) -> torch.Tensor:
    """Sum over the batch of the divergence, mean of both signs: ``steps`` ``[k, D]`` to ``[k]`` float64 on the CPU."""
    hidden = seen.hidden[n]
    batch = len(hidden)
    plain = upper.logits(n, hidden, seen)
    found = []
    for chunk in steps.split(max(1, rows // (2 * batch))):
        signed = torch.cat([chunk, -chunk]).repeat_interleave(batch, 0)
        times = len(signed) // batch
        moved = upper.logits(n, hidden.repeat(times, 1, 1), seen, {n: signed})
        apart = kl_divergence(plain.repeat(times, 1, 1), moved)
        found.append(apart.view(2, len(chunk), batch).mean(0).sum(1))
    return torch.cat(found).cpu()
