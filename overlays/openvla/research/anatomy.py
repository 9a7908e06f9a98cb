"""Where the parts of a vision-language-action model are, whatever it is wrapped in.

Layer ``n`` (0-based) means the *raw* output of decoder block ``n``: before the final norm, for the last block too. It
is taken by forward hooks on ``Anatomy.layers[n]`` and never from ``output_hidden_states``, whose last entry has been
normalised. Along the sequence, position 0 is BOS, 1..P are the projected patches, and the rest of the text follows:
S = P + T positions for T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Recognised by name, so that neither peft nor FSDP has to be there; each with the attribute that holds what is inside.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OptimizedModule": "_orig_mod",
    "PeftModel": "base_model",
    "BaseTuner": "model",
}
_FAMILIES = {
    "hf": ("language_model", "OpenVLAForActionPrediction: .language_model.model.layers, .language_model.lm_head"),
    "prismatic": ("llm_backbone.llm", "PrismaticVLM: .llm_backbone.llm.model.layers, .llm_backbone.llm.lm_head"),
}


class AnatomyError(TypeError):
    """A model in which a part is not where either family of openvla has it."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model that the method touches.

    ``decoder`` is the LlamaModel-like module with ``.layers`` and ``.norm``; ``layers`` its ``nn.ModuleList``, whose
    entries may themselves be FSDP or checkpoint wrappers (hooks belong on the outermost module: they then fire once a
    forward); ``lm_head`` maps hidden states ``[..., D]`` to logits ``[..., vocabulary]``; ``vision`` is the vision
    backbone; ``family`` is ``"hf"`` (``OpenVLAForActionPrediction``) or ``"prismatic"`` (``PrismaticVLM``).
    """

    decoder: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    lm_head: nn.Module
    vision: nn.Module
    hidden_size: int
    family: str

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_patches(self) -> int:
        """P, the positions that the projected patches take. Raises ``AnatomyError`` if the backbone does not say."""
        looked = ("num_patches", "featurizer.patch_embed.num_patches")
        for path in looked:
            found = _reach(self.vision, path)
            if isinstance(found, int):
                return found
        where = " and ".join(f".{path}" for path in looked)
        raise AnatomyError(
            f"the number of patches: {type(self.vision).__name__} does not have it at {where}; "
            "give the vision backbone one of them"
        )


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside DDP, FSDP, PEFT, activation-checkpoint and compile wrappers, in any order."""
    while True:
        names = {kind.__name__ for kind in type(module).__mro__}
        inside = next((attribute for name, attribute in _WRAPPERS.items() if name in names), None)
        if inside is None:
            return module
        module = getattr(module, inside)


def anatomy(model: nn.Module) -> Anatomy:
    """Find the parts of an OpenVLA, as Hugging Face's classes or as the native PrismaticVLM, through its wrappers.

    Raises ``AnatomyError``, naming what was looked for, if the model is neither.
    """
    base = unwrap(model)
    for family, (path, _) in _FAMILIES.items():
        llm = _reach(base, path)
        if isinstance(llm, nn.Module):
            return _dissect(base, unwrap(llm), family)
    looked = "; ".join(text for _, text in _FAMILIES.values())
    raise AnatomyError(f"{type(base).__name__} (inside {type(model).__name__}) is no OpenVLA; looked for {looked}")


def _dissect(base: nn.Module, llm: nn.Module, family: str) -> Anatomy:
    decoder = _need(base, llm, "model", family)
    decoder = unwrap(decoder)
    layers = _need(base, decoder, "layers", family)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        kind = type(layers).__name__
        raise AnatomyError(f"{type(decoder).__name__}.layers is a {kind}, not an nn.ModuleList of decoder blocks")
    return Anatomy(
        decoder=decoder,
        layers=layers,
        norm=_need(base, decoder, "norm", family),
        lm_head=_need(base, llm, "lm_head", family),
        vision=unwrap(_need(base, base, "vision_backbone", family)),
        hidden_size=_hidden_size(llm, decoder),
        family=family,
    )


def _hidden_size(llm: nn.Module, decoder: nn.Module) -> int:
    # From the configuration: FSDP flattens the parameters, so their shapes do not tell.
    for module in (decoder, llm):
        size = _reach(module, "config.hidden_size")
        if isinstance(size, int):
            return size
    raise AnatomyError(f"neither {type(decoder).__name__} nor {type(llm).__name__} has .config.hidden_size")


def _need(base: nn.Module, holder: nn.Module, name: str, family: str) -> Any:
    found = getattr(holder, name, None)
    if found is None:
        raise AnatomyError(
            f"{type(holder).__name__} in {type(base).__name__} has no .{name}; "
            f"looked for {_FAMILIES[family][1]}, .vision_backbone"
        )
    return found


def _reach(module: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(module, nn.Module):
            module = unwrap(module)
        module = getattr(module, name, None)
        if module is None:
            return None
    return module


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden state ``[B, S, D]`` in a decoder block's output: a tensor (transformers 5) or a tuple's first."""
    hidden = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(hidden, torch.Tensor):
        kind = type(output).__name__
        raise AnatomyError(f"a decoder block returned {kind}, neither a tensor nor a tuple that begins with one")
    return hidden
