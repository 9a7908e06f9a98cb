"""The hub's automatic classes, whose names changed between the versions of transformers that the stand-in runs on."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

AutoModelForVision2Seq: Any = getattr(transformers, "AutoModelForVision2Seq", None)
if AutoModelForVision2Seq is None:
    AutoModelForVision2Seq = transformers.AutoModelForImageTextToText

__all__ = ["AutoModelForVision2Seq", "AutoProcessor", "register"]


def register(config: type[Any], model: type[Any], image_processor: type[Any], processor: type[Any]) -> None:
    """Makes ``from_pretrained`` find the stand-in's classes; again and again in one process, if need be."""
    AutoConfig.register("openvla", config, exist_ok=True)
    AutoImageProcessor.register(config, image_processor, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)
    AutoModelForVision2Seq.register(config, model, exist_ok=True)
