"""Probe samples as one batch: right-padded, with the instruction's positions in the model's own sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .spans import instruction_span, prompt_tokens
from .template import Template, template_of

Pixels = torch.Tensor | dict[str, torch.Tensor]


@dataclass
class ProbeBatch:
    """Prompts without answers, and so without labels: nothing in it has a loss.

    ``input_ids``: long ``[B, T]``, BOS first, padded on the right. ``attention_mask``: bool ``[B, T]``, as upstream's
    collator makes it. ``pixel_values``: float32 ``[B, C, H, W]``, or a dict of them where the backbone takes one.
    ``instruction_mask``: bool ``[B, S]`` over the model's sequence, S = P + T positions with the P patches behind BOS;
    false on padding. ``output_position``: long ``[B]``, the position in S whose logits are the first action token's
    distribution. ``ids``: the samples' names.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: Pixels
    instruction_mask: torch.Tensor
    output_position: torch.Tensor
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ProbeBatch:
        """The same batch on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            pixel_values=_each(self.pixel_values, lambda pixels: pixels.to(device)),
            instruction_mask=self.instruction_mask.to(device),
            output_position=self.output_position.to(device),
        )

    def slice(self, start: int, stop: int) -> ProbeBatch:
        """Samples ``start`` to ``stop``, padded as before, so that the sequence keeps its length."""
        return ProbeBatch(
            self.input_ids[start:stop],
            self.attention_mask[start:stop],
            _each(self.pixel_values, lambda pixels: pixels[start:stop]),
            self.instruction_mask[start:stop],
            self.output_position[start:stop],
            self.ids[start:stop],
        )


def collate(
    samples: Sequence[Any], processor: Any, prompt_builder_fn: Any, num_patches: int, pad_to: int | None = None
) -> ProbeBatch:
    """Samples (``.id``, ``.image`` a PIL picture, ``.instruction``) as one batch.

    ``processor``: upstream's processor, or a pair (tokenizer, image transform). ``prompt_builder_fn``: upstream's
    builder class, or a ``Template``. ``num_patches``: P. ``pad_to``: tokens to pad to; the longest sample's if None.

    Raises ``ValueError`` naming the sample for an empty instruction, one whose tokens cannot be told, or a prompt that
    is longer than ``pad_to`` or than the tokenizer takes; for a tokenizer without a padding token; for no samples.
    """
    if not samples:
        raise ValueError("no probe samples to make a batch of")
    tokenizer, transform = _parts(processor)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no padding token; openvla's has <PAD>")
    template = prompt_builder_fn if isinstance(prompt_builder_fn, Template) else template_of(prompt_builder_fn)
    limit = min(tokenizer.model_max_length, pad_to or tokenizer.model_max_length)
    rows, spans = [], []
    for sample in samples:
        try:
            prompt = template.prompt(sample.instruction)
            span, ids = instruction_span(tokenizer, template, prompt), prompt_tokens(tokenizer, prompt)
        except ValueError as error:
            raise ValueError(f"probe sample {sample.id}: {error}") from error
        if len(ids) > limit:
            raise ValueError(f"probe sample {sample.id}: its prompt has {len(ids)} tokens, {limit} is the most")
        rows.append(torch.tensor(ids, dtype=torch.long))
        spans.append(span)

    lengths = torch.tensor([len(row) for row in rows])
    input_ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    if pad_to is not None:
        missing = pad_to - input_ids.shape[1]
        input_ids = torch.nn.functional.pad(input_ids, (0, missing), value=tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), num_patches + input_ids.shape[1], dtype=torch.bool)
    for row, (first, last) in enumerate(spans):
        mask[row, num_patches + first : num_patches + last] = True
    return ProbeBatch(
        input_ids=input_ids,
        attention_mask=torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1),
        pixel_values=_stack([transform(sample.image) for sample in samples]),
        instruction_mask=mask,
        output_position=num_patches + lengths - 1,
        ids=[sample.id for sample in samples],
    )


def _parts(processor: Any) -> tuple[Any, Any]:
    if isinstance(processor, tuple):
        return processor
    return processor.tokenizer, processor.image_processor.apply_transform


def _stack(pictures: list[Any]) -> Pixels:
    if isinstance(pictures[0], dict):
        return {name: torch.stack([picture[name] for picture in pictures]) for name in pictures[0]}
    return torch.stack(pictures)


def _each(pixels: Pixels, change: Any) -> Pixels:
    return {name: change(part) for name, part in pixels.items()} if isinstance(pixels, dict) else change(pixels)
