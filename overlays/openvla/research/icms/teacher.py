"""The teacher: an openvla as upstream's fine-tuning script loads it, and what it was loaded with."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers
from prismatic.extern.hf.configuration_prismatic import OpenVLAConfig
from prismatic.extern.hf.modeling_prismatic import OpenVLAForActionPrediction
from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor
from torch import nn
from transformers import AutoConfig, AutoImageProcessor


def load_teacher(path: str, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Any]:
    """Model and processor of the checkpoint at ``path`` (a folder or a name on the hub), the model in ``dtype`` on
    ``device``.

    The classes are upstream's own, as in ``vla-scripts/finetune.py``, and never code that a checkpoint brings along.
    """
    AutoConfig.register("openvla", OpenVLAConfig, exist_ok=True)
    AutoImageProcessor.register(OpenVLAConfig, PrismaticImageProcessor, exist_ok=True)
    processor = PrismaticProcessor.from_pretrained(path)
    model = OpenVLAForActionPrediction.from_pretrained(path, torch_dtype=dtype, low_cpu_mem_usage=True)
    return model.to(device), processor


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
