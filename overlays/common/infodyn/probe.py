"""Activation probes: what chosen modules compute on a fixed subset of validation, epoch after epoch, in files.

    spec = {"name": "experts", "source_modules": ["**.mlp.experts.*"], "target_modules": ["model.norm"]}
    probe = ActivationProbe([spec], run_dir="runs/first", dataset_name="validation")
    with probe.watch(model, epoch, samples=len(dataset)) as watch:
        for batch in watch.batches(loader):
            model(**batch)

Sources may be experts, of a ModuleList or fused: ``experts.*`` are the experts, and never what fused ones hold beside
their weights (transformers' ``act_fn``). The hooks are there inside of ``with`` only, and gone after an error
too; the files (see ``probe_file``) are written when it ends without one. What is kept is bounded by the subset: at most
``validation_subset_size * tokens_per_sample`` rows of a module, moved to the CPU as soon as they are there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .module_paths import ProbeError, matches, modules_by_path, resolve
from .moe_layers import MoELayer, find_moe_layers
from .probe_content import Resolved, add_counts, check_read, probe_content
from .probe_file import check_name, probe_path, write_probe_file
from .rows import Ranks, merge
from .subset import BatchFacts, choose_samples, read_batch
from .watch import DEALT, Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeSpec:
    """M source modules and N target modules, by path or pattern (see ``module_paths``)."""

    name: str
    source_modules: tuple[str, ...]
    target_modules: tuple[str, ...]

    @classmethod
    def of(cls, value: ProbeSpec | Mapping[str, Any]) -> ProbeSpec:
        """From configuration; raises ``ProbeError`` for keys that are missing or not known, a bad name, empty lists."""
        if isinstance(value, Mapping):
            keys = {"name", "source_modules", "target_modules"}
            if set(value) != keys:
                raise ProbeError(f"a probe has the keys {sorted(keys)}, not {sorted(map(str, value))}")
            for side in ("source_modules", "target_modules"):
                paths = value[side]
                listed = isinstance(paths, Sequence) and not isinstance(paths, str)
                if not listed or not all(isinstance(path, str) for path in paths):
                    raise ProbeError(f"{side} of probe {value['name']!r} must be a list of module paths, not {paths!r}")
            value = cls(value["name"], tuple(value["source_modules"]), tuple(value["target_modules"]))
        if not isinstance(value, cls):
            raise ProbeError(f"a probe is a mapping with name, source_modules and target_modules, not {value!r}")
        if not isinstance(value.name, str):
            raise ProbeError(f"probe name {value.name!r} must be text; put it in quotes")
        check_name(value.name)
        if not value.source_modules or not value.target_modules:
            raise ProbeError(f"probe {value.name!r} needs at least one source module and one target module")
        return value


class ActivationProbe:
    """The probes of one run on one validation set.

    Args:
        probes: specs, or mappings with ``name``, ``source_modules`` and ``target_modules``.
        run_dir: ``runs/<run_id>``; the files go to ``<run_dir>/probes/<probe_name>/``.
        dataset_name: goes into the files.
        validation_subset_size: samples that are kept.
        tokens_per_sample: of each of them, where modules give one vector a token.
        save_every_n_epochs: epochs that are no multiple of it pass without hooks.
        seed: of the subset; the same one gives the same samples and tokens at every epoch and on any number of ranks.
        dealt: how the loader deals samples to ranks, see ``Watch``.
        read_batch: says a batch's size, labels and mask, see ``BatchFacts``.
        group: the process group that evaluates together; by default all ranks.

    Raises ``ProbeError`` for what cannot be meant, naming it.
    """

    def __init__(
        self,
        probes: Sequence[ProbeSpec | Mapping[str, Any]],
        run_dir: str | Path,
        dataset_name: str,
        *,
        validation_subset_size: int = 256,
        tokens_per_sample: int = 4,
        save_every_n_epochs: int = 1,
        seed: int = 0,
        dealt: str = "batches",
        read_batch: Callable[[Any], BatchFacts] = read_batch,
        group: Any = None,
    ) -> None:
        self.probes = [ProbeSpec.of(each) for each in probes]
        names = [each.name for each in self.probes]
        if not names or len(set(names)) != len(names):
            raise ProbeError(f"the probes are named {names}; there must be one, and each must have a name of its own")
        positive = {
            "validation_subset_size": validation_subset_size,
            "tokens_per_sample": tokens_per_sample,
            "save_every_n_epochs": save_every_n_epochs,
        }
        for option, value in positive.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ProbeError(f"{option} is {value!r}; it must be a whole number of at least 1")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ProbeError(f"seed is {seed!r}; it must be a whole number")
        if dealt not in DEALT:
            raise ProbeError(f"dealt is {dealt!r}; it must be one of {', '.join(DEALT)}")
        self.run_dir, self.dataset_name, self.seed = Path(run_dir), dataset_name, seed
        self.size, self.tokens, self.every = validation_subset_size, tokens_per_sample, save_every_n_epochs
        self._dealt, self._read, self._group = dealt, read_batch, group
        self._warned: set[str] = set()

    def due(self, epoch: int) -> bool:
        """Whether ``epoch`` is probed."""
        return epoch % self.every == 0

    @contextmanager
    def watch(self, model: nn.Module, epoch: int, samples: int) -> Iterator[Watch]:
        """Probes one evaluation of ``model`` over ``samples`` samples of all ranks together; collective.

        Raises ``ProbeError``, before the first batch, for modules that are not there; during the forward, for outputs
        that cannot be told apart by sample; at the end, on all ranks, where the samples of the subset did not all come
        or a file cannot be written.
        """
        ranks = Ranks(self._group)
        if not self.due(epoch):
            yield self._watcher({}, [], [], [], 0, ranks)
            return
        if samples < 1:
            raise ProbeError(f"samples is {samples}; give the number of samples that the evaluation reads")
        modules = modules_by_path(model)
        resolved = [self._resolve(spec, modules) for spec in self.probes]
        layers = list({layer.experts: layer for probe in resolved for layer in probe.layers}.values())
        asked = list(dict.fromkeys(path for probe in resolved for path in [*probe.sources, *probe.targets]))
        experts = [path for layer in layers for path in layer.paths if path in asked]
        plain = [path for path in asked if path not in experts]
        watcher = self._watcher(modules, plain, layers, experts, samples, ranks)
        with ExitStack() as hooks:
            watcher.install(hooks)
            yield watcher
        self._finish(watcher, resolved, epoch, samples, ranks)

    def _watcher(
        self,
        modules: Mapping[str, nn.Module],
        plain: list[str],
        layers: list[MoELayer],
        experts: list[str],
        samples: int,
        ranks: Ranks,
    ) -> Watch:
        if 0 < samples < self.size:
            logger.warning("%s has %d samples, fewer than the probes' %d", self.dataset_name, samples, self.size)
        chosen = choose_samples(samples, self.size, self.seed)
        return Watch(
            modules, plain, layers, experts, chosen, samples, self.tokens, self.seed, self._dealt, ranks, self._read
        )

    def _resolve(self, spec: ProbeSpec, modules: Mapping[str, nn.Module]) -> Resolved:
        found = find_moe_layers(modules)
        ready = {path for layer in found if layer.fused or layer.router for path in layer.paths}
        inner = tuple(f"{layer.experts}." for layer in found)
        # What is inside of experts runs on some tokens only: a wildcard does not mean it, by name it is refused.
        known = [path for path in modules if not path.startswith(inner)]
        known += [path for layer in found for path in layer.paths]
        for pattern in [*spec.source_modules, *spec.target_modules]:
            if not any(matches(pattern, path) for path in known):
                for path in modules:
                    if matches(pattern, path):
                        _check_routed(path, ready, modules, spec.name)
        sources, targets = (
            resolve(getattr(spec, side), known, f"probe {spec.name!r}, {side}")
            for side in ("source_modules", "target_modules")
        )
        asked = [*sources, *targets]
        for path in asked:
            _check_routed(path, ready, modules, spec.name)
        layers = [layer for layer in found if any(layer.concerns(path) for path in asked)]
        # Without a router there is nothing to count; the experts of such a layer were refused above.
        return Resolved(spec.name, sources, targets, [layer for layer in layers if layer.fused or layer.router])

    def _finish(self, watch: Watch, probes: list[Resolved], epoch: int, samples: int, ranks: Ranks) -> None:
        chosen = choose_samples(samples, self.size, self.seed)
        for doubt in watch.shapes.doubts():
            if ranks.rank == 0 and doubt not in self._warned:
                logger.warning("%s", doubt)
                self._warned.add(doubt)
        said = ranks.gather((watch.read, watch.batch_size, watch.counts()))
        parts = {path: ranks.gather(rows.packed(ranks.size > 1)) for path, rows in watch.rows.items()}
        routes = {path: ranks.gather(rows.packed(ranks.size > 1)) for path, rows in watch.routed.items()}
        # Each module's buffer goes when its rows are merged.
        watch.rows.clear()
        failure: Exception | None = None
        if ranks.rank == 0:
            try:
                check_read([read for read, _, _ in said], said[0][1], samples, self._dealt)
                kept = {path: merge(parts.pop(path), path, chosen) for path in list(parts)}
                routed = {path: merge(each, path, chosen) for path, each in routes.items()}
                counts = add_counts([each for _, _, each in said])
                for probe in probes:
                    about = {"epoch": epoch, "dataset_name": self.dataset_name, "seed": self.seed}
                    content = probe_content(probe, about, kept, routed, counts)
                    write_probe_file(probe_path(self.run_dir, probe.name, epoch), content)
            except Exception as error:
                failure = error
        try:
            ranks.agree(None if failure is None else str(failure))
        except ProbeError as told:
            raise told from failure


def _check_routed(path: str, experts: set[str], modules: Mapping[str, nn.Module], probe: str) -> None:
    """Raises ``ProbeError`` for a module that runs on some of the tokens only, but is no expert of a known router."""
    if path in experts or path not in modules:
        return
    parts = path.split(".")
    for end in range(1, len(parts)):
        holder = ".".join(parts[:end])
        # Shared experts run on every token. Others are refused though their weights are not recognised, as where an
        # engine has flattened them: `experts.*` would mean their activation function.
        if parts[end - 1].endswith("experts") and "shared" not in parts[end - 1]:
            raise ProbeError(
                f"probe {probe!r}: {path} runs on the tokens routed to it only, and which these are is known for whole "
                f"experts ({holder}.*) beside a module named router or gate with a weight [experts, .] only"
            )
