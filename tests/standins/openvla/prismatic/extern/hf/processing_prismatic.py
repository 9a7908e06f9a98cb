"""Pictures to pixels, prompts to tokens, under the names that the hub's files have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import TensorType


class PrismaticImageProcessor(BaseImageProcessor):
    model_input_names = ["pixel_values"]  # noqa: RUF012 - the base class annotates it

    def __init__(
        self,
        use_fused_vision_backbone: bool = True,
        image_resize_strategy: str = "resize-naive",
        input_sizes: list[tuple[int, int, int]] | None = None,
        means: list[tuple[float, float, float]] | None = None,
        stds: list[tuple[float, float, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.use_fused_vision_backbone, self.image_resize_strategy = use_fused_vision_backbone, image_resize_strategy
        self.input_sizes = input_sizes or [(3, 32, 32)] * 2
        self.means = means or [(0.5, 0.5, 0.5), (0.5, 0.5, 0.5)]
        self.stds = stds or [(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
        super().__init__(**kwargs)

    def apply_transform(self, img: Image.Image) -> torch.Tensor:
        """A picture as float32 [6, H, H]: resized and normalised once for each featurizer."""
        pixels = []
        for (_, height, width), mean, std in zip(self.input_sizes, self.means, self.stds, strict=True):
            sized = img if img.size == (width, height) else img.resize((width, height), Image.Resampling.BICUBIC)
            scaled = torch.from_numpy(np.asarray(sized, dtype=np.float32) / 255.0).permute(2, 0, 1)
            pixels.append((scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        return torch.cat(pixels)

    def preprocess(self, images: Any, return_tensors: Any = None, **_: Any) -> BatchFeature:
        images = images if isinstance(images, list) else [images]
        pixel_values = torch.stack([self.apply_transform(image.convert("RGB")) for image in images])
        return BatchFeature(data={"pixel_values": pixel_values.numpy()}, tensor_type=return_tensors)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        return self.preprocess(images, **kwargs)


class PrismaticProcessor(ProcessorMixin):
    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012 - the base class annotates it
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **_: Any) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        text: Any,
        images: Any,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        return_tensors: Any = TensorType.PYTORCH,
    ) -> BatchFeature:
        """``input_ids`` [B, T], ``attention_mask`` [B, T] and ``pixel_values`` [B, 6, H, H]."""
        pixel_values = self.image_processor(images, return_tensors=return_tensors)["pixel_values"]
        encoded = self.tokenizer(
            text, return_tensors=return_tensors, padding=padding, truncation=truncation, max_length=max_length
        )
        if len(pixel_values) != len(encoded.input_ids):
            raise ValueError(f"{len(encoded.input_ids)} prompts came with {len(pixel_values)} pictures")
        return BatchFeature(data={**encoded, "pixel_values": pixel_values})

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        return self.tokenizer.batch_decode(sequences, **kwargs)

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        return self.tokenizer.decode(token_ids, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]
