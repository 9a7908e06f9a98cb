"""The two figures of a checkpoint: accuracy on the general tasks, success on the downstream ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .batches import actions_of, prompt_ids
from .tasks import Sample, World, is_right


def load(checkpoint: Path) -> tuple[Any, Any]:
    """Model (float32, evaluation mode) and processor of a checkpoint folder."""
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
    from transformers import AutoTokenizer

    model = OpenVLAForActionPrediction.from_pretrained(checkpoint).float().eval()
    processor = PrismaticProcessor(
        PrismaticImageProcessor.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    )
    return model, processor


def predict(model: Any, processor: Any, samples: Sequence[Sample]) -> np.ndarray:
    """The actions [N, 7] that the model answers with, decoded greedily as ``predict_action`` does one by one."""
    by_length: dict[int, list[int]] = {}
    prompts = [prompt_ids(processor.tokenizer, sample.instruction) for sample in samples]
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    stats = model.norm_stats[next(iter(model.norm_stats))]["action"]
    actions = np.empty((len(samples), len(stats["q01"])))
    parameter = next(model.parameters())
    for indices in by_length.values():
        ids = torch.tensor([prompts[index] for index in indices], device=parameter.device)
        pixels = torch.stack(
            [processor.image_processor.apply_transform(Image.fromarray(samples[index].image)) for index in indices]
        )
        tokens = model.generate_tokens(ids, pixels.to(parameter), len(stats["q01"]))
        actions[indices] = model.actions_of(tokens, next(iter(model.norm_stats)))
    return actions


def accuracy(model: Any, processor: Any, samples: Sequence[Sample]) -> float:
    """Share of samples whose whole action is right."""
    return float(is_right(predict(model, processor, samples), actions_of(samples)).mean())


def evaluate(model: Any, processor: Any, world: World, count: int = 512) -> dict[str, float]:
    """``general_accuracy`` and ``downstream_success`` in [0, 1], on ``count`` held-out samples each."""
    was_training = model.training
    model.eval()
    try:
        return {
            "general_accuracy": accuracy(model, processor, world.samples("general", count, "test")),
            "downstream_success": accuracy(model, processor, world.samples("downstream", count, "test")),
        }
    finally:
        model.train(was_training)


def evaluate_checkpoint(checkpoint: Path, world: World, count: int = 512) -> dict[str, float]:
    return evaluate(*load(checkpoint), world, count)
