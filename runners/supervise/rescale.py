"""Multiplies the learning rates in an optimizer's and a scheduler's saved state. Run in the trainer's interpreter.

    python rescale.py FACTOR SOURCE TARGET [SOURCE TARGET ...]

Only what decides a rate is changed: `lr` and `initial_lr` of param_groups (torch.optim), `base_lrs` and `_last_lr`
(torch.optim.lr_scheduler), also those of schedulers inside a scheduler. Files are read with weights_only=True.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

GROUP = ("lr", "initial_lr")
SCHEDULE = ("base_lrs", "_last_lr")


def scaled(state: Any, factor: float, found: list[float]) -> Any:
    """`state` with rates multiplied; `found` gets each rate as it was."""
    if isinstance(state, list):
        return [scaled(item, factor, found) for item in state]
    if not isinstance(state, dict):
        return state
    changed = type(state)()
    for key, value in state.items():
        if key == "param_groups":
            changed[key] = [_group(group, factor, found) for group in value]
        elif key in SCHEDULE:
            found += [float(rate) for rate in value]
            changed[key] = [rate * factor for rate in value]
        elif key == "state":
            changed[key] = value  # moments, as large as the model
        else:
            changed[key] = scaled(value, factor, found)
    return changed


def _group(group: dict[str, Any], factor: float, found: list[float]) -> dict[str, Any]:
    found += [float(group[key]) for key in GROUP if key in group]
    return {key: value * factor if key in GROUP else value for key, value in group.items()}


def main() -> None:
    factor, names = float(sys.argv[1]), sys.argv[2:]
    rates: dict[str, list[float]] = {}
    for source, target in zip(names[::2], names[1::2], strict=True):
        found: list[float] = []
        state = torch.load(source, map_location="cpu", weights_only=True)
        torch.save(scaled(state, factor, found), target)
        if not found:
            sys.exit(f"{source} holds no rate that this knows (param_groups, base_lrs): resume with the old rate")
        rates[source] = found
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
