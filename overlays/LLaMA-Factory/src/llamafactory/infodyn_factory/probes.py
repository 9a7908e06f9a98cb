"""Activation probes at the Trainer's evaluations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..infodyn.probe import ActivationProbe
from .refusals import strategy_of

if TYPE_CHECKING:
    from transformers import Trainer


class TrainerProbes:
    """The probes of one run, one ``ActivationProbe`` for each evaluation set.

    Files go to ``<output_dir>/probes/<name>/``, and where there are several evaluation sets to ``<name>.<data set>``.

    Args:
        trainer: whose evaluations are probed.
        options: ``probes``, the list, and what else ``ActivationProbe`` takes by name.

    Raises:
        ValueError: no list of probes, or what ``ActivationProbe`` refuses.
    """

    def __init__(self, trainer: "Trainer", options: Mapping[str, Any]) -> None:
        given = dict(options)
        specs = given.pop("probes", None)
        if not isinstance(specs, Sequence) or isinstance(specs, str):
            raise ValueError("`probes` needs a list `probes` of mappings with name, source_modules and target_modules.")

        known = {"validation_subset_size", "tokens_per_sample", "save_every_n_epochs", "seed"}
        unknown = sorted(set(given) - known)
        if unknown:
            raise ValueError(f"`probes` has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}.")

        self.trainer = trainer
        sets = trainer.eval_dataset
        names = list(sets) if isinstance(sets, dict) else [None]
        given.setdefault("seed", trainer.args.seed)
        self.by_set: dict[str | None, ActivationProbe] = {}
        for name in names:
            own = specs if len(names) == 1 else [{**spec, "name": f"{spec['name']}.{name}"} for spec in specs]
            self.by_set[name] = ActivationProbe(own, trainer.args.output_dir, name or "validation", **given)

        self._watch: Any = None

    @property
    def epoch(self) -> int:
        """The epoch that has ended or is under way; with ``eval_strategy: steps`` the evaluation's number."""
        args, state = self.trainer.args, self.trainer.state
        if strategy_of(args) == "steps":
            return math.ceil(state.global_step / max(1, int(state.eval_steps or 1)))

        return math.ceil((state.epoch or 0) - 1e-9)

    @contextmanager
    def watching(self, name: str | None, samples: int) -> Iterator[None]:
        """Probe one evaluation of ``samples`` samples."""
        probe = self.by_set[name if name in self.by_set else next(iter(self.by_set))]
        with probe.watch(self.trainer.accelerator.unwrap_model(self.trainer.model), self.epoch, samples) as watch:
            self._watch = watch
            try:
                yield
            finally:
                self._watch = None

    def begin_batch(self, inputs: Any) -> None:
        if self._watch is not None:
            self._watch.begin_batch(inputs)
