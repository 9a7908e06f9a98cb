"""An OpenVLA of 16 million random parameters that loads as `openvla/openvla-7b` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGE = 64
HIDDEN = 64
LAYERS = 4
BACKBONE = "vit_tiny_patch16_224"
TEXT = {
    "vocab_size": 32064,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "pad_token_id": 32000,
}


def spread(llama: Any, seed: int) -> None:
    """Draws a llama's weights so that every part has a say, as in a trained model.

    At the usual standard deviation of 0.02 a random model answers the same whatever it is asked: the output is flat,
    and no direction of the hidden states is more vulnerable than another. Here hidden features differ in scale, blocks
    add as much as they receive, and the output is peaked.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    for name, weight in llama.named_parameters():
        if weight.dim() < 2:
            weight.data.fill_(1.0)
            continue
        gain = 3.0 if "lm_head" in name else 1.0
        scale = 1.0 if "embed_tokens" in name else gain * weight.shape[1] ** -0.5
        weight.data.copy_(torch.randn(weight.shape, generator=random) * scale)
        if "embed_tokens" in name:
            weight.data.mul_(torch.logspace(0.3, -0.7, weight.shape[1]))


def make_checkpoint(folder: Path, tokenizer: Any, seed: int = 7) -> Path:
    """Writes model (bfloat16) and processor to `folder`: two `vit_tiny` at 64 pixels, a llama of four layers."""
    import torch
    from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor

    torch.manual_seed(seed)
    config = OpenVLAConfig(
        vision_backbone_id="dinosiglip-vit-so-224px",
        llm_backbone_id="llama2-7b-pure",
        arch_specifier="no-align+fused-gelu-mlp",
        image_resize_strategy="resize-naive",
        text_config={**TEXT, "torch_dtype": "bfloat16"},
        # Not the tables' 224 pixels and billions of parameters: upstream's configuration takes them as keywords.
        image_sizes=[IMAGE, IMAGE],
        timm_model_ids=[BACKBONE, BACKBONE],
        timm_override_act_layers=[None, None],
        norm_stats={"before_training": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}}},
        torch_dtype="bfloat16",
    )
    model = OpenVLAForActionPrediction(config)
    spread(model.language_model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    images = PrismaticImageProcessor(
        use_fused_vision_backbone=True,
        image_resize_strategy="resize-naive",
        input_sizes=[(3, IMAGE, IMAGE)] * 2,
        interpolations=["bicubic"] * 2,
        means=[(0.5, 0.5, 0.5)] * 2,
        stds=[(0.5, 0.5, 0.5)] * 2,
    )
    PrismaticProcessor(images, tokenizer).save_pretrained(folder)
    return folder
