"""Activation probes at the Trainer's evaluations."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..infodyn.module_paths import ProbeError
from ..infodyn.probe import ActivationProbe, ProbeSpec
from ..infodyn.probe_options import split_options
from .refusals import strategy_of

if TYPE_CHECKING:
    from transformers import Trainer


class TrainerProbes:
    """The probes of one run, one ``ActivationProbe`` for each evaluation set.

    Files go to ``<output_dir>/probes/<name>/``, and where there are several evaluation sets to ``<name>.<data set>``,
    percent-encoded: a data set's name may be no folder's.

    Args:
        trainer: whose evaluations are probed.
        options: ``probes``, the list, and what else ``ActivationProbe`` takes by name.

    Raises:
        ValueError: no list of probes, or what ``ActivationProbe`` refuses.
    """

    def __init__(self, trainer: "Trainer", options: Mapping[str, Any]) -> None:
        found, given = split_options(options)
        specs = [ProbeSpec.of(each) for each in found]
        self.trainer = trainer
        sets = trainer.eval_dataset
        self.sets: dict[str | None, Any] = dict(sets) if isinstance(sets, dict) else {None: sets}
        given.setdefault("seed", trainer.args.seed)
        self.by_set: dict[str | None, ActivationProbe] = {}
        for name in self.sets:
            # What `quote` leaves of what a probe's name may not have is the tilde.
            folder = quote(name or "", safe="").replace("~", "%7E")
            own = specs if len(self.sets) == 1 else [replace(spec, name=f"{spec.name}.{folder}") for spec in specs]
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
    def watching(self, target: Any) -> Iterator[None]:
        """Probe one evaluation of ``target``: one of the run's own evaluation sets, or its name.

        Raises:
            ProbeError: another data set, which has no file of its own.
        """
        named = isinstance(target, str)
        found = [name for name, own in self.sets.items() if (target == name if named else target is own)]
        if not found:
            raise ProbeError(
                f"`probes`: {target if named else 'the evaluated data set'} is none of the run's own evaluation sets, "
                "and would come into the files of another; evaluate it without `probes`, or name it in `eval_dataset`"
            )
        probe, dataset = self.by_set[found[0]], self.sets[found[0]]
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with probe.watch(model, self.epoch, len(dataset)) as watch:
            self._watch = watch
            try:
                yield
            finally:
                self._watch = None

    def begin_batch(self, inputs: Any) -> None:
        if self._watch is not None:
            self._watch.begin_batch(inputs)
