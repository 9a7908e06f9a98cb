"""Loss, entropy and accuracy by task, taken from the forward passes that the Trainer makes anyway."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ..extras.constants import IGNORE_INDEX
from ..infodyn.pi import gradient_norm, predictive_integrity, token_statistics


def summed_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The same sum on every rank."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)

    return values


class ForwardMeter:
    """Adds up token statistics of a model's forward passes, those of training apart from those of evaluation.

    Logits are reduced to four numbers inside the forward hook; none are kept.

    Args:
        rows_that_count: for an evaluation batch of so many rows, how many of them are not there a second time: the last
            batch of a distributed loader is filled up with samples that were evaluated already.
    """

    def __init__(self, rows_that_count: Callable[[int], int]) -> None:
        self.rows_that_count = rows_that_count
        self.training: torch.Tensor | None = None
        self.evaluation: torch.Tensor | None = None
        self._paused = False

    def attach(self, model: torch.nn.Module) -> Any:
        """Watch ``model``; the handle that is returned ends it."""
        return model.register_forward_hook(self._hook, with_kwargs=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def _hook(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._paused:
            return

        labels, logits = kwargs.get("labels"), getattr(output, "logits", None)
        if labels is None or logits is None or logits.shape[:-1] != labels.shape:
            raise RuntimeError(
                "`dynamic_schedule` measures accuracy from a forward pass with labels and with logits for each of "
                f"them; {type(module).__name__} was called with{'out' if labels is None else ''} labels and gave "
                f"logits of shape {None if logits is None else tuple(logits.shape)}."
            )

        if module.training:
            found = token_statistics(logits.detach(), labels, ignore_index=IGNORE_INDEX)
            self.training = found if self.training is None else self.training + found
        else:
            rows = self.rows_that_count(len(labels))
            found = token_statistics(logits.detach()[:rows], labels[:rows], ignore_index=IGNORE_INDEX)
            self.evaluation = found if self.evaluation is None else self.evaluation + found

    def take_training(self) -> torch.Tensor | None:
        found, self.training = self.training, None
        return found

    def take_evaluation(self, device: torch.device) -> torch.Tensor:
        found, self.evaluation = self.evaluation, None
        return torch.zeros(4, dtype=torch.float64, device=device) if found is None else found


class StepMeter:
    """Predictive integrity of each optimizer step since the last evaluation, by task, over all micro-batches and ranks.

    epsilon and tau are means over the step's tokens, so their ratio is that of the sums over all micro-batches, as PILF
    takes it. The surprise is the norm of the step's own gradient before clipping: PILF's sum of each micro-batch's norm
    grows with their number, and PI would fall with the gradient accumulation.
    """

    def __init__(self, alpha: float, gamma: float) -> None:
        self.alpha, self.gamma = alpha, gamma
        self.norm: torch.Tensor | None = None
        self.steps: dict[str, list[torch.Tensor]] = {}
        """By task, float64 ``[5]`` a step: token statistics and norm. Read only when asked, so no step waits for it."""

    def watch_clipping(self, accelerator: Any) -> None:
        """Learn the norm before clipping from the one place that computes it."""
        clip = accelerator.clip_grad_norm_

        def clip_and_tell(*args: Any, **kwargs: Any) -> Any:
            norm = clip(*args, **kwargs)
            if self.norm is None and norm is not None:
                self.norm = torch.as_tensor(norm).detach()

            return norm

        accelerator.clip_grad_norm_ = clip_and_tell

    def end_step(self, task: str, sums: torch.Tensor | None, model: torch.nn.Module) -> None:
        """The gradients of a step on ``task`` are complete and were clipped, or not."""
        if sums is None:
            raise RuntimeError("an optimizer step without a measured forward pass: did something replace the model?")

        norm = gradient_norm(p.grad for p in model.parameters()) if self.norm is None else self.norm
        self.norm = None
        measured = torch.cat([summed_over_ranks(sums), norm.to(sums).reshape(1)])
        self.steps.setdefault(task, []).append(measured)

    def take(self, task: str) -> tuple[float | None, int, int]:
        """Mean PI over the steps on ``task``, the number of them, and of those left out; begin anew.

        A step without a labelled token has no PI. Nor has one whose loss or gradient is not finite: under float16 the
        gradient scaler meets such steps now and then, and skips them.
        """
        steps = [step.tolist() for step in self.steps.pop(task, [])]
        found = [
            predictive_integrity(loss / tokens, entropy / tokens, norm, alpha=self.alpha, gamma=self.gamma)
            for loss, entropy, _, tokens, norm in steps
            if tokens > 0 and all(map(math.isfinite, (loss, entropy, norm)))
        ]
        return (sum(found) / len(found) if found else None), len(found), len(steps) - len(found)
