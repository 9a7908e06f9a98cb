"""Runs a script of openvla with its tables of pretrained backbones pointing at tiny ones, for native checkpoints.

    python runners/openvla_on_cpu.py tests/openvla_real/tiny_tables.py LLM_FOLDER SCRIPT [ARGUMENTS ...]
    python tests/openvla_real/tiny_tables.py LLM_FOLDER -m MODULE [ARGUMENTS ...]

finetune.py loads one checkpoint that says all; train.py builds a PrismaticVLM from backbones that upstream's tables
name as a hub does.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from tiny_checkpoint import BACKBONE, IMAGE

TINY = "vit_tiny_for_tests"
VISION, LANGUAGE = "dinosiglip-vit-so-224px", "llama2-7b-pure"


def point_at(llm: Path) -> None:
    """`llm` is a folder with a Llama and its tokenizer; vision backbones stay random until a checkpoint is loaded."""
    import timm
    from prismatic.models import materialize
    from prismatic.models.backbones.llm.llama2 import LLAMA2_MODELS
    from prismatic.models.backbones.vision.dinosiglip_vit import DINOSigLIP_VISION_BACKBONES

    def vit_tiny_for_tests(pretrained: bool = False, num_classes: int = 0, img_size: int = IMAGE, **_: Any) -> Any:
        return timm.create_model(BACKBONE, pretrained=False, num_classes=num_classes, img_size=img_size)

    timm.models.register_model(vit_tiny_for_tests)
    DINOSigLIP_VISION_BACKBONES[VISION] = {"dino": TINY, "siglip": TINY}
    materialize.VISION_BACKBONES[VISION]["kwargs"] = {"default_image_size": IMAGE}
    LLAMA2_MODELS[LANGUAGE]["hf_hub_path"] = str(llm)


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit("usage: tiny_tables.py LLM_FOLDER (SCRIPT | -m MODULE) [ARGUMENTS ...]")
    llm, sys.argv = Path(sys.argv[1]), sys.argv[2:]
    point_at(llm)
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
