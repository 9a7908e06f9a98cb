"""Steps of robot episodes as training samples: the wire format of RLDS, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import IterableDataset

from prismatic.models.backbones.llm.prompting import PromptBuilder
from prismatic.vla.action_tokenizer import ActionTokenizer
from prismatic.vla.datasets.rlds import make_interleaved_dataset, make_single_dataset
from prismatic.vla.datasets.rlds.oxe import OXE_NAMED_MIXTURES

IGNORE_INDEX = -100


@dataclass
class RLDSBatchTransform:
    action_tokenizer: ActionTokenizer
    base_tokenizer: Any
    image_transform: Callable[[Image.Image], torch.Tensor]
    prompt_builder_fn: type[PromptBuilder]
    predict_stop_token: bool = True

    def __call__(self, rlds_batch: dict[str, Any]) -> dict[str, Any]:
        """One step as ``pixel_values`` [6, H, H], ``input_ids`` [T] and ``labels`` [T] on action and stop token."""
        action = rlds_batch["action"][0]
        lang = rlds_batch["task"]["language_instruction"].decode().lower()
        builder = self.prompt_builder_fn("openvla")
        builder.add_turn("human", f"What action should the robot take to {lang}?")
        builder.add_turn("gpt", self.action_tokenizer(action))
        input_ids = torch.tensor(self.base_tokenizer(builder.get_prompt(), add_special_tokens=True).input_ids)
        labels = input_ids.clone()
        labels[: -(len(action) + 1)] = IGNORE_INDEX
        if not self.predict_stop_token:
            labels[-1] = IGNORE_INDEX
        return {
            "pixel_values": self.image_transform(Image.fromarray(rlds_batch["observation"]["image_primary"][0])),
            "input_ids": input_ids,
            "labels": labels,
            "dataset_name": rlds_batch["dataset_name"],
        }


class RLDSDataset(IterableDataset):
    def __init__(
        self,
        data_root_dir: Path,
        data_mix: str,
        batch_transform: RLDSBatchTransform,
        resize_resolution: tuple[int, int],
        shuffle_buffer_size: int = 256_000,
        train: bool = True,
        image_aug: bool = False,
    ) -> None:
        self.data_root_dir, self.data_mix, self.batch_transform = data_root_dir, data_mix, batch_transform
        rlds_config = {
            "root": Path(data_root_dir),
            "mixture": OXE_NAMED_MIXTURES.get(data_mix, [(data_mix, 1.0)]),
            "resize_size": tuple(resize_resolution),
            "shuffle_buffer_size": shuffle_buffer_size,
            "train": train,
            "image_aug": image_aug,
        }
        self.dataset, self.dataset_length, self.dataset_statistics = self.make_dataset(rlds_config)

    def make_dataset(self, rlds_config: dict[str, Any]) -> Any:
        return make_interleaved_dataset(**rlds_config)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rlds_batch in self.dataset.as_numpy_iterator():
            yield self.batch_transform(rlds_batch)

    def __len__(self) -> int:
        return self.dataset_length


class EpisodicRLDSDataset(RLDSDataset):
    """Whole episodes, once and in order: lists of samples. An episode of the toy world has a single step."""

    def make_dataset(self, rlds_config: dict[str, Any]) -> Any:
        return make_single_dataset(**rlds_config)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for rlds_batch in self.dataset.as_numpy_iterator():
            yield [self.batch_transform(rlds_batch)]
