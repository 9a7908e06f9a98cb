"""Vulnerability of all directions of all layers at once, from sampled gradients of the log-probabilities.

To second order in the change, KL(p || p') = delta^2/2 * v^T F v, where F = J^T (diag(p) - p p^T) J is the Fisher
information of a shift common to all instruction tokens and J the Jacobian of the logits by that shift (Amari, Natural
Gradient Works Efficiently in Learning, 1998; Martens, New Insights and Perspectives on the Natural Gradient Method,
2020). The textbook estimator draws y ~ p and averages (g.v)^2 with g the gradient of log p(y). A policy that is sure
of its token makes that useless: nearly every draw is the sure token with a small g, and a rare one carries the sum.
Here each draw weighs *all* tokens: z = sqrt(p) * s - p * sum(sqrt(p) * s), s with independent random signs, has
covariance exactly diag(p) - p p^T, hence E[(J^T z . v)^2] = v^T F v as well, and no heavy tail. As z sums to 0, J^T z
is the gradient of sum_y z_y log p(y).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ..anatomy import anatomy
from .quiet import quiet
from .replay import Upper, capture
from .vulnerability import Directions, Task, Vulnerability


def fisher(
    model: nn.Module,
    tasks: Iterable[Task],
    directions: Mapping[int, Directions],
    *,
    epsilon: float,
    draws: int = 4,
    seed: int = 7,
    dtype: torch.dtype = torch.float32,
) -> dict[int, Vulnerability]:
    """The vulnerability, to second order, of every direction of every layer in ``directions``.

    One forward and ``draws`` backwards a batch. The gradients are those of zero shifts ``[B, D]`` added by the way,
    so each sample has its own and no parameter gets one. A sample's random signs depend on ``seed`` and its place in
    the probe set only: batch size and order of batches do not change the result beyond rounding.
    """
    layers = sorted(directions)
    bases = {n: directions[n].basis for n in layers}
    sums = {n: torch.zeros(2, bases[n].shape[1], dtype=torch.float64) for n in layers}
    upper = Upper(anatomy(model), dtype)
    count = 0
    with quiet(model):
        for task in tasks:
            seen = capture(model, task.batch, layers[:1], task.outputs)
            batch, device = len(task.outputs), seen.outputs.device
            count += batch
            shifts = {
                n: torch.zeros(batch, len(bases[n]), dtype=dtype, device=device, requires_grad=True) for n in layers
            }
            with torch.enable_grad():
                logits = upper.logits(layers[0], seen.hidden[layers[0]], seen, shifts)
            signs = [sample_signs(seed, task.first + i) for i in range(batch)]
            p = torch.softmax(logits.detach().double(), -1)
            squares: dict[int, list[torch.Tensor]] = {n: [] for n in layers}
            for draw in range(draws):
                grads = torch.autograd.grad(
                    logits, [shifts[n] for n in layers], weigh(p, signs).to(logits), retain_graph=draw + 1 < draws
                )
                for n, grad in zip(layers, grads, strict=True):
                    squares[n].append((grad.double() @ bases[n].to(device)).square())
            for n in layers:
                found = torch.stack(squares[n])
                spread = found.var(0) if draws > 1 else torch.full_like(found[0], torch.nan)
                sums[n] += torch.stack([found.mean(0).sum(0), (spread / draws).sum(0)]).cpu()
    half = {n: directions[n].delta(epsilon) ** 2 / 2 for n in layers}
    return {n: Vulnerability(half[n] * sums[n][0] / count, half[n] * sums[n][1].sqrt() / count) for n in layers}


def sample_signs(seed: int, sample: int) -> torch.Generator:
    """The source of one sample's random signs; on the CPU, so that every device gets the same."""
    # Torch's CPU generator keeps 32 bits of a seed.
    return torch.Generator().manual_seed((seed * 1_000_003 + sample) % 2**32)


def weigh(p: torch.Tensor, signs: Sequence[torch.Generator]) -> torch.Tensor:
    """One draw of weights with covariance diag(p) - p p^T: float64 ``[B, O, V]``, a generator a sample."""
    drawn = [torch.randint(0, 2, p.shape[1:], generator=one, dtype=torch.int8) for one in signs]
    weighed = p.sqrt() * (torch.stack(drawn).to(p.device) * 2 - 1)
    return weighed - p * weighed.sum(-1, keepdim=True)
