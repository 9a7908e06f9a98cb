"""Samples to right-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

IGNORE_INDEX = -100


@dataclass
class PaddedCollatorForActionPrediction:
    model_max_length: int
    pad_token_id: int
    padding_side: str = "right"
    pixel_values_dtype: torch.dtype = torch.float32

    def __call__(self, instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask``, ``labels`` [B, T], ``pixel_values`` [B, 6, H, H], ``dataset_names``."""
        assert self.padding_side == "right", f"training pads on the right, not on the {self.padding_side}"
        ids = pad_sequence([each["input_ids"] for each in instances], True, self.pad_token_id)
        labels = pad_sequence([each["labels"] for each in instances], True, IGNORE_INDEX)
        ids, labels = ids[:, : self.model_max_length], labels[:, : self.model_max_length]
        pixels = [each["pixel_values"] for each in instances]
        if isinstance(pixels[0], dict):  # as the path with FSDP has them, by featurizer
            stacked = {name: torch.stack([each[name] for each in pixels]) for name in pixels[0]}
        else:
            stacked = torch.stack(pixels)
        batch = {
            "pixel_values": stacked,
            "input_ids": ids,
            "attention_mask": ids.ne(self.pad_token_id),
            "labels": labels,
        }
        if "dataset_name" in instances[0]:
            batch["dataset_names"] = [each["dataset_name"] for each in instances]
        return batch
