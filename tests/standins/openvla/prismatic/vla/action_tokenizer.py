"""Continuous actions as the last tokens of the vocabulary, and back."""

from __future__ import annotations

from typing import Any

import numpy as np


class ActionTokenizer:
    def __init__(self, tokenizer: Any, bins: int = 256, min_action: int = -1, max_action: int = 1) -> None:
        self.tokenizer, self.n_bins, self.min_action, self.max_action = tokenizer, bins, min_action, max_action
        self.bins = np.linspace(min_action, max_action, self.n_bins)
        self.bin_centers = (self.bins[:-1] + self.bins[1:]) / 2.0
        self.action_token_begin_idx = int(tokenizer.vocab_size - (self.n_bins + 1))

    def token_ids(self, action: np.ndarray) -> list[int]:
        """One token id for each number of an action [7]."""
        clipped = np.clip(action, self.min_action, self.max_action)
        return (self.tokenizer.vocab_size - np.digitize(clipped, self.bins)).tolist()

    def __call__(self, action: np.ndarray) -> str | list[str]:
        if np.ndim(action) == 1:
            return self.tokenizer.decode(self.token_ids(action))
        return [self.tokenizer.decode(self.token_ids(row)) for row in action]

    def decode_token_ids_to_actions(self, action_token_ids: np.ndarray) -> np.ndarray:
        index = np.clip(self.tokenizer.vocab_size - action_token_ids - 1, 0, len(self.bin_centers) - 1)
        return self.bin_centers[index]

    @property
    def vocab_size(self) -> int:
        return self.n_bins
