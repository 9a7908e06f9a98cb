"""The teacher: an openvla as upstream's training scripts load it, and what it was loaded with."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
from prismatic.models import available_models, load, load_vla
from torch import nn
from transformers import AutoConfig, AutoImageProcessor

from ..probe.hidden_and_mask import prompt_builder_for


@dataclass(frozen=True)
class Teacher:
    """A model, its processor as ``collate`` takes it, and the class that builds the prompts it is trained with."""

    model: nn.Module
    processor: Any
    prompt_builder_fn: Any


def load_teacher(path: str, dtype: torch.dtype, device: torch.device) -> Teacher:
    """The checkpoint at ``path``, its weights in ``dtype``, on ``device``.

    What lies there tells how it is loaded: a run's ``checkpoints/*.pt`` or a base VLM (a folder, or one of upstream's
    names) as ``vla-scripts/train.py`` does it, anything else (a folder or a name on the hub) as
    ``vla-scripts/finetune.py``. The classes are upstream's own, and never code that a checkpoint brings along.

    Raises ``ValueError`` or ``OSError`` for what upstream's loaders do not take.
    """
    native = _native(path)
    if native is not None:
        # The weights alone: rounded buffers would turn the position embedding, which training keeps in float32.
        for parameter in native.parameters():
            parameter.data = parameter.data.to(dtype)
        processor = (native.llm_backbone.get_tokenizer(), native.vision_backbone.get_image_transform())
        return Teacher(native.to(device), processor, native.llm_backbone.prompt_builder_fn)
    AutoConfig.register("openvla", OpenVLAConfig, exist_ok=True)
    AutoImageProcessor.register(OpenVLAConfig, PrismaticImageProcessor, exist_ok=True)
    model = OpenVLAForActionPrediction.from_pretrained(path, torch_dtype=dtype, low_cpu_mem_usage=True)
    return Teacher(model.to(device), PrismaticProcessor.from_pretrained(path), prompt_builder_for(path))


def _native(path: str) -> Any:
    """The PrismaticVLM at ``path``, float32, or None where Hugging Face's files lie."""
    place = Path(path)
    if not place.exists():
        return load(path) if path in available_models() else None
    folder = place.parent.parent if place.is_file() else place
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    is_run = "vla" in config
    if place.is_dir() and not is_run and "model" not in config:
        return None
    if place.is_file() != is_run:
        wanted = f"a run of train.py; name one of {folder}/checkpoints/*.pt" if is_run else "no run; name its folder"
        raise ValueError(f"--vla_path {path}: {folder / 'config.json'} is of {wanted}")
    try:
        return load_vla(path) if is_run else load(path)
    except AssertionError as error:
        raise ValueError(f"--vla_path {path}: upstream's loader refuses it: {error}") from error


def upstream_commit() -> str:
    """HEAD of the checkout that this file lies in, or ``"unknown"`` outside a git checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).resolve().parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
