"""Samples as the tensors that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .tasks import Sample

STATISTICS: dict[str, Any] = {
    "action": {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]},
}
"""Nothing is scaled: the toy world's actions lie in [-1, 1], the gripper in {0, 1}."""


def prompt_ids(tokenizer: Any, instruction: str) -> list[int]:
    """The tokens before the first action token, as upstream's prompt builder makes them."""
    from prismatic.models.backbones.llm.prompting import PurePromptBuilder

    builder = PurePromptBuilder("openvla")
    builder.add_turn("human", f"What action should the robot take to {instruction.lower()}?")
    return tokenizer(builder.prompt, add_special_tokens=True).input_ids


def encode(samples: Sequence[Sample], tokenizer: Any, transform: Any) -> dict[str, torch.Tensor]:
    """Right-padded ``input_ids`` [B, T] with the action and ``</s>``, ``labels`` on those eight, ``pixel_values``."""
    from prismatic.vla.action_tokenizer import ActionTokenizer

    actions = ActionTokenizer(tokenizer)
    rows, labels = [], []
    for sample in samples:
        prompt = prompt_ids(tokenizer, sample.instruction)
        answer = [*actions.token_ids(sample.action), tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    input_ids = pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": input_ids != tokenizer.pad_token_id,
        "labels": pad(labels, batch_first=True, padding_value=-100),
        "pixel_values": torch.stack([transform(Image.fromarray(sample.image)) for sample in samples]),
    }


def actions_of(samples: Sequence[Sample]) -> np.ndarray:
    return np.stack([sample.action for sample in samples])


def write_data(root: Path, name: str, samples: Sequence[Sample]) -> Path:
    """A data set that ``--data_root_dir root --dataset_name name`` reads; returns ``root``."""
    from prismatic.vla.datasets.rlds import write_dataset

    images = np.stack([sample.image for sample in samples])
    write_dataset(root / name, images, actions_of(samples), [sample.instruction for sample in samples])
    return root
