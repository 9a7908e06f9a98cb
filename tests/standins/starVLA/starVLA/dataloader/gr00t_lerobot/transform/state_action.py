"""Actions and states as tensors, scaled to [-1, 1]."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, PrivateAttr

from .base import ModalityTransform


class StateActionToTensor(ModalityTransform):
    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, **{key: torch.from_numpy(data[key]).float() for key in self.apply_to}}


class StateActionTransform(ModalityTransform):
    """``min_max`` is the only mode here: [..., D] from the data set's range to [-1, 1]."""

    normalization_modes: dict[str, str] = Field(default_factory=dict)
    _ranges: dict[str, Any] = PrivateAttr(default_factory=dict)

    def set_metadata(self, dataset_metadata: Any) -> None:
        for key in self.normalization_modes:
            known = dataset_metadata[key]
            self._ranges[key] = torch.tensor(known["min"]), torch.tensor(known["max"])

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        scaled = {}
        for key, (low, high) in self._ranges.items():
            scaled[key] = 2 * (data[key] - low) / (high - low).clamp(min=1e-6) - 1
        return {**data, **scaled}
