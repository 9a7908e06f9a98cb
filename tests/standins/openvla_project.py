"""The stand-in for openvla, grafted with the real packs; see grafted.py."""

from __future__ import annotations

from tests.standins.grafted import REPOSITORY, GraftedProject, Ran, packs_of

__all__ = ["OVERLAY", "REPOSITORY", "STANDIN", "OpenVLAProject", "Ran", "packs"]

STANDIN = REPOSITORY / "tests" / "standins" / "openvla"
OVERLAY = REPOSITORY / "overlays" / "openvla"


def packs() -> list[str]:
    """The packs for openvla that this repository has."""
    return packs_of("openvla")


class OpenVLAProject(GraftedProject):
    upstream = "openvla"
    license = "Apache-2.0"
    preload = (
        *("torch", "torch.distributed.fsdp", "transformers", "transformers.models.llama.modeling_llama"),
        *("transformers.models.auto.processing_auto", "peft", "accelerate", "draccus", "PIL.Image", "tqdm", "yaml"),
    )
