"""A tiny PrismaticVLM in the layout that vla-scripts/train.py loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_checkpoint import TEXT, spread
from tiny_tables import LANGUAGE, VISION, point_at

# The name on the hub; train.py takes a folder of this name in the working folder instead.
BASE_VLM = "prism-dinosiglip-224px+7b"
LLM = "llm-tiny"


def make_prismatic(folder: Path, tokenizer: Any, seed: int = 7) -> Path:
    """Writes `LLM` (a Llama, float32) and `BASE_VLM` (configuration and checkpoint) to `folder`."""
    import torch
    from prismatic.models.materialize import get_llm_backbone_and_tokenizer, get_vision_backbone_and_transform, get_vlm
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT))
    spread(llama, seed)
    llama.save_pretrained(folder / LLM)
    tokenizer.save_pretrained(folder / LLM)

    point_at(folder / LLM)
    vision, _ = get_vision_backbone_and_transform(VISION, "resize-naive")
    language, _ = get_llm_backbone_and_tokenizer(LANGUAGE, inference_mode=True)
    language.llm.load_state_dict(llama.state_dict())
    vlm = get_vlm(BASE_VLM, "no-align+fused-gelu-mlp", vision, language)
    checkpoints = folder / BASE_VLM / "checkpoints"
    checkpoints.mkdir(parents=True)
    modules = {name: getattr(vlm, name).state_dict() for name in ("vision_backbone", "llm_backbone", "projector")}
    torch.save({"model": modules}, checkpoints / "latest-checkpoint.pt")
    config = {
        "model_id": BASE_VLM,
        "vision_backbone_id": VISION,
        "llm_backbone_id": LANGUAGE,
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "llm_max_length": 2048,
    }
    (folder / BASE_VLM / "config.json").write_text(json.dumps({"model": config}), encoding="utf-8")
    return folder / BASE_VLM
