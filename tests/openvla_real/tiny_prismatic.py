"""A tiny PrismaticVLM in the layout that vla-scripts/train.py loads, with the weights of the tiny checkpoint."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from tiny_checkpoint import TEXT
from tiny_tables import LANGUAGE, VISION, point_at

# The name on the hub; train.py takes a folder of this name in the working folder instead.
BASE_VLM = "prism-dinosiglip-224px+7b"
LLM = "llm-tiny"


def upstreams_converter() -> Any:
    """vla-scripts/extern/convert_openvla_weights_to_hf.py, which knows what each weight is called on either side."""
    import prismatic

    script = Path(str(prismatic.__file__)).parents[1] / "vla-scripts" / "extern" / "convert_openvla_weights_to_hf.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    return converter


def make_prismatic(folder: Path, tokenizer: Any, checkpoint: Path) -> Path:
    """Writes `LLM` (a Llama, float32) and `BASE_VLM` (configuration and checkpoint) to `folder`.

    Both are the native twins of the model in `checkpoint`, which upstream's converter would make of them.
    """
    import torch
    from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
    from prismatic.models.materialize import get_llm_backbone_and_tokenizer, get_vision_backbone_and_transform, get_vlm
    from transformers import LlamaConfig, LlamaForCausalLM

    twin = OpenVLAForActionPrediction.from_pretrained(checkpoint, torch_dtype=torch.float32)
    llama = LlamaForCausalLM(LlamaConfig(**TEXT))
    llama.load_state_dict(twin.language_model.state_dict())
    llama.save_pretrained(folder / LLM)
    tokenizer.save_pretrained(folder / LLM)

    point_at(folder / LLM)
    vision, _ = get_vision_backbone_and_transform(VISION, "resize-naive")
    language, _ = get_llm_backbone_and_tokenizer(LANGUAGE, inference_mode=True)
    vlm = get_vlm(BASE_VLM, "no-align+fused-gelu-mlp", vision, language)
    parts = {name: getattr(vlm, name) for name in ("vision_backbone", "projector", "llm_backbone")}
    names = [{key: (part, key) for key in module.state_dict()} for part, module in parts.items()]
    weights = twin.state_dict()
    for name, (part, key) in upstreams_converter().remap_state_dicts_for_hf(*names, True).items():
        parts[part].state_dict()[key].copy_(weights.pop(name))
    assert not weights
    checkpoints = folder / BASE_VLM / "checkpoints"
    checkpoints.mkdir(parents=True)
    modules = {part: module.state_dict() for part, module in parts.items()}
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
