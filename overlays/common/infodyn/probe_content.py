"""From what all ranks kept to the dictionary of a probe's file (see ``probe_file``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .module_paths import ProbeError
from .moe_layers import MoELayer


@dataclass(frozen=True)
class Resolved:
    """A probe on a model: module paths in the place of patterns, and the layers of experts that they concern."""

    name: str
    sources: list[str]
    targets: list[str]
    layers: list[MoELayer]


def check_read(read: Sequence[int], batch_size: int, samples: int, dealt: str) -> None:
    """The order of samples means something only where as many came as there are, but for what fills batches.

    ``read``: by each rank. Raises ``ProbeError``.
    """
    read = read[:1] if dealt == "whole" else read
    spare = len(read) * batch_size if len(read) > 1 else 1
    if not samples <= sum(read) < samples + spare:
        raise ProbeError(
            f"the evaluation read {' + '.join(map(str, read))} samples, but samples= says {samples}; give the number "
            f"that it reads on all ranks, and with dealt= (now {dealt!r}) how they are dealt"
        )


def add_counts(ranks: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """The sum over ranks, for each experts' path and expert."""
    return {path: [sum(each) for each in zip(*(rank[path] for rank in ranks), strict=True)] for path in ranks[0]}


def probe_content(
    probe: Resolved,
    about: Mapping[str, Any],
    kept: Mapping[str, Mapping[str, Any]],
    routed: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The dictionary of ``probe``; ``kept`` and ``routed`` as ``rows.merge`` gives them, ``about`` the epoch, the data
    set's name and the seed.

    Rows are those of the first module with a vector a token; modules with one a sample are repeated to them. Raises
    ``ProbeError`` where modules have other tokens, or the labels fit no row.
    """
    asked = [*probe.sources, *probe.targets]
    reference = next((path for path in asked if kept[path]["tokens"][0] >= 0), asked[0])
    rows = kept[reference]
    if rows["labels"] is None:
        raise ProbeError(
            f"probe {probe.name!r}: the batch's labels fit neither the samples nor the tokens of {reference}; give "
            "read_batch= a function whose labels are [B] or [B, T], or that gives none"
        )

    def aligned(path: str, each: Mapping[str, Any]) -> Tensor:
        values: Tensor = each["values"]
        if torch.equal(each["samples"], rows["samples"]) and torch.equal(each["tokens"], rows["tokens"]):
            return values
        if bool((each["tokens"] >= 0).any()):
            raise ProbeError(
                f"probe {probe.name!r}: {path} and {reference} have other numbers of tokens, so that no row of one "
                "belongs to one of the other; probe them apart"
            )
        return values[torch.searchsorted(each["samples"], rows["samples"])]

    layers = {layer.experts: layer for layer in probe.layers}
    return {
        "metadata": {
            "probe_name": probe.name,
            "epoch": about["epoch"],
            "source_modules": probe.sources,
            "target_modules": probe.targets,
            "dataset_name": about["dataset_name"],
            "expert_activation_counts": {
                path: {_expert(name): n for name, n in zip(layer.names, counts[path], strict=True)}
                for path, layer in layers.items()
            },
            "rows": {
                "sample": rows["samples"],
                "token": rows["tokens"],
                "experts": "dense",
                "routed_experts": {path: aligned(path, routed[path]) for path in layers},
                "seed": about["seed"],
            },
        },
        "source_activations": {path: aligned(path, kept[path]) for path in probe.sources},
        "target_activations": {path: aligned(path, kept[path]) for path in probe.targets},
        "labels": rows["labels"],
    }


def _expert(name: str) -> int | str:
    return int(name) if name.isdigit() else name
