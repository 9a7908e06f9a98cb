"""Transforms of a step's data, by modality key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ModalityTransform(BaseModel):
    apply_to: list[str] = []

    def set_metadata(self, dataset_metadata: Any) -> None:
        """Statistics of the data set, by key."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return self.apply(data)

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


class ComposedModalityTransform(ModalityTransform):
    transforms: list[Any]

    def set_metadata(self, dataset_metadata: Any) -> None:
        for transform in self.transforms:
            transform.set_metadata(dataset_metadata)

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        for transform in self.transforms:
            data = transform(data)
        return data
