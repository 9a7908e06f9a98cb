"""What the input guard says of its measurement: the first line of metrics.jsonl, and a warning."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LEAST = 0.9
"""A layer that holds less of each row of other samples, on average, is named in the report."""


@dataclass(frozen=True)
class Held:
    """Of one layer: k directions of D inputs; ``others`` as ``Inputs.checked`` has it. A layer never run has k = 0."""

    directions: int
    inputs: int
    others: tuple[float, float] | None


def report_of(layers: Mapping[str, Held], share: float, seconds: float) -> dict[str, Any]:
    """Plain types. ``by_layer`` has k, D, and of samples that the directions do not come from the held share of all
    energy and the mean of each row's (None without such samples); then smallest and median over layers that ran."""
    run = {name: one for name, one in layers.items() if one.directions}
    checked = {name: one.others for name, one in run.items() if one.others is not None}
    return {
        "share": share,
        "seconds": seconds,
        "directions_of_inputs": _ends(one.directions / one.inputs for one in run.values()),
        "held_energy": _ends(energy for energy, _ in checked.values()),
        "held_of_rows": _ends(row for _, row in checked.values()),
        "least": LEAST,
        "below_least": [name for name, (_, row) in checked.items() if row < LEAST],
        "never_run": [name for name in layers if name not in run],
        "by_layer": {name: [one.directions, one.inputs, *(one.others or (None, None))] for name, one in layers.items()},
    }


def warn_of_unseen(layers: Mapping[str, Held]) -> None:
    """Warn of layers with k = 0, which the guard leaves free."""
    names = [name for name, one in layers.items() if not one.directions]
    if names:
        warnings.warn(
            f"surgery.input_guard holds nothing in {len(names)} of {len(layers)} layers that LoRA adds to, since the "
            f"probe set never runs them: {', '.join(names)}; such a layer is unguarded wherever training does run it",
            stacklevel=3,
        )


def _ends(values: Iterable[float]) -> dict[str, float] | None:
    found = list(values)
    return {"min": min(found), "median": statistics.median(found)} if found else None
