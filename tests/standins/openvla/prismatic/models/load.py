"""Models for the training script: from a folder that ``toy_world.pretrain`` saved, or from a run's own checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor
from prismatic.models.backbones.llm import LLMBackbone
from prismatic.models.backbones.vision import VisionBackbone
from prismatic.models.vlas import OpenVLA
from prismatic.models.vlms import PrismaticVLM
from prismatic.vla.action_tokenizer import ActionTokenizer


def available_models() -> list[str]:
    return []  # none by name: nothing is fetched here


def load(
    model_id_or_path: str | Path,
    hf_token: str | None = None,
    cache_dir: str | Path | None = None,
    load_for_training: bool = False,
) -> PrismaticVLM:
    return PrismaticVLM(*_parts(Path(model_id_or_path))).train(load_for_training)


def load_vla(
    model_id_or_path: str | Path,
    hf_token: str | None = None,
    cache_dir: str | Path | None = None,
    load_for_training: bool = False,
    step_to_load: int | None = None,
    model_type: str = "pretrained",
) -> OpenVLA:
    """The model of ``RUN/checkpoints/step-....pt``; ``RUN/config.json`` names the folder it was trained from."""
    checkpoint = Path(model_id_or_path)
    run_dir = checkpoint.parents[1]
    base = json.loads((run_dir / "config.json").read_text())["vla"]["base_vlm"]
    norm_stats = json.loads((run_dir / "dataset_statistics.json").read_text())
    model_id, vision, llm, projector = _parts(Path(base))
    tokenizer = ActionTokenizer(llm.get_tokenizer())
    vla = OpenVLA(model_id, vision, llm, projector, norm_stats=norm_stats, action_tokenizer=tokenizer)
    for key, state in torch.load(checkpoint, map_location="cpu", weights_only=True)["model"].items():
        getattr(vla, key).load_state_dict(state)
    return vla.train(load_for_training)


def _parts(folder: Path) -> tuple[str, VisionBackbone, LLMBackbone, Any]:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no stand-in checkpoint at {folder}: python -m toy_world.pretrain --out {folder}")
    model = OpenVLAForActionPrediction.from_pretrained(folder).float()
    vision = VisionBackbone(model.vision_backbone, PrismaticImageProcessor.from_pretrained(folder))
    llm = LLMBackbone(model.language_model, AutoTokenizer.from_pretrained(folder))
    return folder.name, vision, llm, model.projector
