"""Probes for training loops without a validation loader: samples are kept, and go through the model one at a time.

    probe = SampleProbe(options, run_dir, "bridge", pick, forward, seed=7)
    probe.evaluate(model, epoch)

Alone in its batch, a sample has no padding, and whatever a module's output looks like (tokens of several pictures in
one row, an action that is denoised at several times at once), all of its rows are that sample's. The price is a forward
a sample. Training goes on as if nothing had been: random states, and which modules train, are put back.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .module_paths import ProbeError
from .pi import undisturbed
from .probe import ActivationProbe
from .probe_options import split_options
from .rows import Ranks
from .subset import BatchFacts, sample_seed


class SampleProbe:
    """The probes of one run, on samples of its own; all ranks make it together and evaluate together.

    Args:
        options: ``probes``, the list, and what else ``ActivationProbe`` takes by name.
        run_dir: files go to ``<run_dir>/probes/<probe_name>/``.
        dataset_name: goes into the files.
        model: whose random states are kept while samples are read.
        pick: called once with (number of samples, seed) on every rank; gives the same samples on all of them, in the
            same order, fewer where there are no more.
        forward: one forward pass of the model on one sample.
        seed: where ``options`` name none. It also decides what a forward pass draws: a sample's noise is the same at
            every evaluation.

    Raises ``ProbeError`` for options that cannot be meant, and where there is no sample.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        run_dir: str | Path,
        dataset_name: str,
        model: nn.Module,
        pick: Callable[[int, int], Sequence[Any]],
        forward: Callable[[nn.Module, Any], Any],
        *,
        seed: int = 0,
    ) -> None:
        specs, given = split_options(options)
        given.setdefault("seed", seed)
        self.probe = ActivationProbe(specs, run_dir, dataset_name, dealt="samples", read_batch=_alone, **given)
        self.seed, self._forward = self.probe.seed, forward
        self._ranks = ranks = Ranks()
        with undisturbed(model):
            _seed_all(self.seed)
            samples = pick(self.probe.size, self.seed)
        if not len(samples):
            raise ProbeError(f"{dataset_name} has no sample to probe; give a data set that holds some out")
        self.number = len(samples)
        # Every rank runs as often: what engines gather in a forward pass waits for all of them. Those too many are
        # left out by their number.
        rounds = -(-self.number // ranks.size)
        self.samples = [samples[(turn * ranks.size + ranks.rank) % self.number] for turn in range(rounds)]

    def evaluate(self, model: nn.Module, epoch: int) -> None:
        """Probes ``model``, the bare one, and writes the files of ``epoch``; collective. Raises ``ProbeError``."""
        if not self.probe.due(epoch):
            return
        with undisturbed(model), torch.no_grad(), self.probe.watch(model, epoch, self.number) as watch:
            for turn, sample in enumerate(self.samples):
                _seed_all(sample_seed(self.seed, turn * self._ranks.size + self._ranks.rank))
                watch.begin_batch(sample)
                self._forward(model, sample)


def _alone(sample: Any) -> BatchFacts:
    return BatchFacts(1)


def _seed_all(seed: int) -> None:
    """The generators that ``undisturbed`` puts back, and no others: torch.manual_seed would reach all devices."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
