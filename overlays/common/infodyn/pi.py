"""Predictive integrity: how well a model's loss, its uncertainty and its gradients agree with what it is shown.

PI = exp(-alpha * ((1 - gamma) * epsilon / tau + gamma * surprise)), from the integrated predictive workspace theory
(IPWT) and its public implementation PILF. Written from the formula; none of that code is used.

Every quantity is measured, in validation too. Gradients given as an empty list would make PI 1 whatever the model does,
so there is no way here to leave one out.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LossSum = Callable[[nn.Module, Any], "tuple[Tensor, int]"]
_ROWS = 1024
"""Labelled tokens whose probabilities are held at once."""


def predictive_integrity(
    epsilon: float, tau: float, surprise: float, *, alpha: float = 1.0, gamma: float = 0.5
) -> float:
    """PI of one batch, in (0, 1].

    Args:
        epsilon: mean loss, nats.
        tau: mean entropy of softmax(logits), nats. Where it is 0 the model is certain: right (``epsilon`` 0) the
            ratio is 0, its limit for a probability that goes to one; wrong it is infinite, and PI 0.
        surprise: L2 norm of the loss's gradient over all parameters of the group.
        alpha: scale of the exponent, at least 0.
        gamma: weight of the surprise, in [0, 1].

    Raises:
        ValueError: a negative or non-finite quantity, or a constant out of range.
    """
    for name, value in (("epsilon", epsilon), ("tau", tau), ("surprise", surprise), ("alpha", alpha)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"predictive integrity needs a finite {name} of at least 0, got {value!r}.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"predictive integrity needs a gamma in [0, 1], got {gamma!r}.")
    ratio = epsilon / tau if tau > 0 else (0.0 if epsilon == 0 else math.inf)
    weighted = (1 - gamma) * ratio if gamma < 1 else 0.0
    return math.exp(-alpha * (weighted + gamma * surprise)) if alpha > 0 else 1.0


@torch.no_grad()
def token_statistics(logits: Tensor, labels: Tensor, *, ignore_index: int = -100, shift: bool = True) -> Tensor:
    """Sums over the labelled positions, without keeping logits or probabilities of more than a thousand of them.

    Args:
        logits: ``[..., S, V]`` with ``shift``, else ``[..., V]``.
        labels: whole numbers of the shape of ``logits`` without its last axis; ``ignore_index`` where none is.
        shift: the logits at a position predict the label of the next one, as in a causal language model.

    Returns:
        float64 ``[4]`` on the logits' device: summed loss (nats), summed entropy (nats), right predictions, positions.
    """
    if shift:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    labelled = labels != ignore_index
    targets = labels[labelled].to(logits.device)
    places = labelled.to(logits.device).nonzero(as_tuple=True)
    sums = torch.zeros(4, dtype=torch.float64, device=logits.device)
    for start in range(0, len(targets), _ROWS):
        rows = logits[tuple(axis[start : start + _ROWS] for axis in places)].float()
        wanted = targets[start : start + _ROWS]
        log_p = rows.log_softmax(-1)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, torch.zeros_like(p)).sum(-1)
        loss = -log_p.gather(-1, wanted[:, None]).squeeze(-1)
        right = rows.argmax(-1) == wanted
        count = torch.full((), len(wanted), dtype=torch.float64, device=logits.device)
        sums += torch.stack([loss.double().sum(), entropy.double().sum(), right.double().sum(), count])
    return sums


def causal_loss_sum(model: nn.Module, batch: Any, *, ignore_index: int = -100) -> tuple[Tensor, int]:
    """Summed cross-entropy (nats) of a causal language model, and over how many tokens.

    ``batch`` holds the model's keyword arguments with ``labels`` ``[B, S]``.
    """
    logits = model(**batch).logits
    labels = batch["labels"][..., 1:].to(logits.device)
    loss = nn.functional.cross_entropy(
        logits[..., :-1, :].flatten(0, -2).float(), labels.flatten(), ignore_index=ignore_index, reduction="sum"
    )
    return loss, int((labels != ignore_index).sum())


def gradient_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """L2 norm over all ``gradients`` together, float32, a scalar; those that are None count as zero."""
    norms = [torch.linalg.vector_norm(g.detach().float()) for g in gradients if g is not None]
    if not norms:
        raise ValueError("no gradient at all: a surprise of nothing would make any model look perfect.")
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def validation_surprise(
    model: nn.Module, batches: Sequence[Any], loss_sum: LossSum = causal_loss_sum, parameters: Any = None
) -> float:
    """Surprise outside training: the norm of the gradient of the mean loss over ``batches``, in evaluation mode.

    The gradient is added up over the batches, so it does not matter how the samples are split into them. Parameters,
    their ``.grad``, the random states and every module's train or eval flag are afterwards what they were.

    Args:
        model: the bare model, without a data-parallel wrapper. No gradient checkpointing in evaluation mode.
        batches: a small fixed subset; each is handed to ``loss_sum``.
        loss_sum: summed loss and the number of terms in it.
        parameters: those over which the norm is taken; all that require a gradient if None.

    Raises:
        ValueError: no trainable parameter, no batch, or no labelled term in any batch.
    """
    chosen = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    if not chosen:
        raise ValueError("no parameter requires a gradient, so there is no surprise to measure.")
    total: list[Tensor | None] = [None] * len(chosen)
    terms = 0
    with undisturbed(model), torch.enable_grad():
        for batch in batches:
            loss, count = loss_sum(model, batch)
            if count == 0:
                continue
            terms += count
            for i, gradient in enumerate(torch.autograd.grad(loss, chosen, allow_unused=True)):
                if gradient is not None:
                    total[i] = gradient.float() if total[i] is None else total[i] + gradient
            del loss
    if terms == 0:
        raise ValueError("no labelled term in the subset for the surprise: choose more samples.")
    return float(gradient_norm(total)) / terms


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards all random states and every module's flag are what they were."""
    flags = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
