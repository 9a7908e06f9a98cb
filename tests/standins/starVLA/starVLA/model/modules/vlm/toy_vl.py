"""A vision-language model of a few layers: bytes for text, one convolution for pictures, a Llama for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature

SIDE, PATCH = 32, 8
PATCHES = (SIDE // PATCH) ** 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% for part in m['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class ToyVLConfig(LlamaConfig):
    model_type = "toy_vl"

    @property
    def text_config(self) -> ToyVLConfig:
        return self


class ToyVLForConditionalGeneration(LlamaForCausalLM):
    """``pixel_values`` [pictures, 3, SIDE, SIDE] take the places of the ``<|image_pad|>`` tokens, in order."""

    config_class = ToyVLConfig

    def __init__(self, config: ToyVLConfig) -> None:
        super().__init__(config)
        self.visual = nn.Conv2d(3, config.hidden_size, PATCH, PATCH)
        self.places = nn.Parameter(torch.zeros(PATCHES, config.hidden_size))
        self.post_init()

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **kwargs: Any) -> Any:
        embeddings = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            patches = self.visual(pixel_values.to(embeddings.dtype)).flatten(2).transpose(1, 2) + self.places
            slots = (input_ids == self.config.image_token_id)[..., None].expand_as(embeddings)
            embeddings = embeddings.masked_scatter(slots, patches.to(embeddings.dtype))
        return super().forward(inputs_embeds=embeddings, **kwargs)


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=SPECIAL[2], pad_token=SPECIAL[0], padding_side="left", chat_template=TEMPLATE
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    return tokenizer


def make_checkpoint(folder: Path, layers: int = 2, width: int = 64) -> Path:
    """Writes a random model and its tokenizer; torch's generator decides the weights."""
    tokenizer = make_tokenizer()
    config = ToyVLConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    ToyVLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class ToyProcessor:
    """Chat messages and pictures to what the model takes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.image_token = tokenizer, "<|image_pad|>"

    @classmethod
    def from_pretrained(cls, folder: str) -> ToyProcessor:
        return cls(PreTrainedTokenizerFast.from_pretrained(folder))

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self.tokenizer.apply_chat_template(*args, **kwargs)

    def __call__(self, text: list[str], images: list[Image.Image] | None, **kwargs: Any) -> BatchFeature:
        text = [each.replace(self.image_token, self.image_token * PATCHES) for each in text]
        found = self.tokenizer(text, **kwargs)
        data = {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}
        if images:
            pixels = np.stack([np.asarray(each.convert("RGB").resize((SIDE, SIDE))) for each in images])
            data["pixel_values"] = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return BatchFeature(data)
