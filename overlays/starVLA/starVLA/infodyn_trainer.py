"""Activation probes at the evaluations of upstream's trainer: ``trainer.probes``, off where it is not there.

Upstream has no validation set and evaluates on the training batches that come next. A probe needs the same samples each
time, so it keeps some of the training mixture, and runs the framework's training forward on them (sampling would run
each block of an action head several times). The trainer's own data, random numbers and evaluation are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .infodyn.module_paths import ProbeError
from .infodyn.probe_options import as_mapping
from .infodyn.sample_probe import SampleProbe
from .infodyn.subset import choose_samples


def attach_probes(trainer: Any) -> None:
    """Gives upstream's VLATrainer its probes, where ``trainer.probes`` is set, and takes them of the model as it is.

    The trainer becomes an instance of a subclass, so that its evaluation goes on to upstream's own. Files go to
    ``<output_dir>/probes``; epoch N is the evaluation after ``N * eval_interval`` steps, 0 the model before training:
    what cannot be probed is refused there and not hours later.

    Raises:
        ValueError: options that cannot be meant, modules that are not there, or data that cannot be read by number.
    """
    given = trainer.config.trainer.get("probes")
    if given is None:
        return
    options = as_mapping("trainer.probes", given.to_dict() if hasattr(given, "to_dict") else given)
    dataset = trainer.vla_train_dataloader.dataset
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ProbeError(
            f"trainer.probes: samples of {type(dataset).__name__} cannot be read by number; use a map-style data set"
        )

    def pick(number: int, seed: int) -> Sequence[Any]:
        return [dataset[index] for index in choose_samples(len(dataset), number, seed)]

    model = trainer.accelerator.unwrap_model(trainer.model)
    name = str(trainer.config.datasets.vla_data.data_mix)
    seed = int(trainer.config.get("seed", 0))
    trainer.infodyn_probes = SampleProbe(options, trainer.config.output_dir, name, model, pick, forward, seed=seed)
    trainer.infodyn_epoch = None
    trainer.__class__ = type(f"Probed{type(trainer).__name__}", (ProbedMixin, type(trainer)), {})
    if trainer.completed_steps % int(trainer.config.trainer.eval_interval) == 0:
        trainer.take_probes()


def forward(model: nn.Module, example: Any) -> Any:
    """The framework's training forward on one example, in the precision that upstream trains in."""
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.cuda.is_available()):
        return model.forward([example])


class ProbedMixin:
    """Overrides of upstream's VLATrainer."""

    infodyn_probes: SampleProbe
    infodyn_epoch: int | None

    def eval_action_model(self, *args: Any, **kwargs: Any) -> Any:
        metrics = super().eval_action_model(*args, **kwargs)  # type: ignore[misc]
        self.take_probes()
        return metrics

    def take_probes(self: Any) -> None:
        """Of the model as it is; once an epoch, though upstream evaluates at every micro-batch of an evaluated step."""
        epoch = self.completed_steps // int(self.config.trainer.eval_interval)
        if epoch != self.infodyn_epoch:
            self.infodyn_epoch = epoch
            self.infodyn_probes.evaluate(self.accelerator.unwrap_model(self.model), epoch)
