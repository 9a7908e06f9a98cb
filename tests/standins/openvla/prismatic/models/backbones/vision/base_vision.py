"""The vision backbone on the path that trains with FSDP: pixels as a dictionary, one entry a featurizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.distributed.fsdp.wrap import _module_wrap_policy

from prismatic.extern.hf.modeling_prismatic import Featurizer, PrismaticVisionBackbone
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor


class ImageTransform:
    """A picture as ``{"dino": [3, H, H], "siglip": [3, H, H]}``."""

    def __init__(self, processor: PrismaticImageProcessor) -> None:
        self.processor = processor

    def __call__(self, img: Image.Image) -> dict[str, torch.Tensor]:
        first, second = self.processor.apply_transform(img).split([3, 3])
        return {"dino": first, "siglip": second}


class VisionBackbone(nn.Module):
    identifier, half_precision_dtype = "dinosiglip-vit-so-224px", torch.bfloat16

    def __init__(self, backbone: PrismaticVisionBackbone, processor: PrismaticImageProcessor) -> None:
        super().__init__()
        self.dino_featurizer, self.siglip_featurizer = backbone.featurizer, backbone.fused_featurizer
        self.embed_dim, self.num_patches = backbone.embed_dim, backbone.featurizer.patch_embed.num_patches
        self.image_transform = ImageTransform(processor)
        self.default_image_resolution = tuple(processor.input_sizes[0])
        self.dtype = torch.bfloat16

    def forward(self, pixel_values: dict[str, torch.Tensor]) -> torch.Tensor:
        first = self.dino_featurizer(pixel_values["dino"])
        return torch.cat([first, self.siglip_featurizer(pixel_values["siglip"])], dim=2)

    def get_image_transform(self) -> ImageTransform:
        return self.image_transform

    def get_fsdp_wrapping_policy(self) -> Callable[..., Any]:
        return partial(_module_wrap_policy, module_classes={Featurizer})
