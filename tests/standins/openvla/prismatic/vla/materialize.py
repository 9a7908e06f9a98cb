"""Data set, action tokenizer and collator in one call, for the training script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prismatic.models.backbones.llm.prompting import PromptBuilder
from prismatic.util.data_utils import PaddedCollatorForActionPrediction
from prismatic.vla.action_tokenizer import ActionTokenizer
from prismatic.vla.datasets import EpisodicRLDSDataset, RLDSBatchTransform, RLDSDataset


def get_vla_dataset_and_collator(
    data_root_dir: Path,
    data_mix: str,
    image_transform: Callable[..., Any],
    tokenizer: Any,
    prompt_builder_fn: type[PromptBuilder],
    default_image_resolution: tuple[int, int, int],
    padding_side: str = "right",
    predict_stop_token: bool = True,
    shuffle_buffer_size: int = 100_000,
    train: bool = True,
    episodic: bool = False,
    image_aug: bool = False,
) -> tuple[RLDSDataset, ActionTokenizer, PaddedCollatorForActionPrediction]:
    action_tokenizer = ActionTokenizer(tokenizer)
    transform = RLDSBatchTransform(action_tokenizer, tokenizer, image_transform, prompt_builder_fn, predict_stop_token)
    dataset = (EpisodicRLDSDataset if episodic else RLDSDataset)(
        data_root_dir,
        data_mix,
        transform,
        resize_resolution=default_image_resolution[1:],
        shuffle_buffer_size=shuffle_buffer_size,
        train=train,
        image_aug=image_aug,
    )
    return (
        dataset,
        action_tokenizer,
        PaddedCollatorForActionPrediction(
            tokenizer.model_max_length, tokenizer.pad_token_id, padding_side=padding_side
        ),
    )
