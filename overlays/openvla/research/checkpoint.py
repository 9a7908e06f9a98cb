"""Saving and resuming a run with gradient surgery.

finetune.py saves adapters and cannot resume. With ``--surgery.resume FOLDER`` a run continues from a saved adapter:

    resumes          the LoRA weights, bit for bit; the thermostat (average, range, number of measurements) with beta
                     and gamma; the count of optimizer steps, by which measurements and metrics.jsonl go
    does not resume  AdamW's moments, which begin at zero again: upstream makes its optimizer after ``attach`` and
                     saves nothing of it; the order of the data, which RLDS does not record; random state, so dropout
                     and augmentation go another way; upstream's own step count, so ``max_steps`` and ``save_steps``
                     count from zero, and its wandb run is a new one

So a resumed run is a continuation and not a replay. train.py resumes by itself (``pretrained_checkpoint``); there only
the thermostat's state is added, from the file beside the checkpoint.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

STATE_FILE = "gradient_surgery.pt"
FORMAT = 1
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def state_name(step: int | None = None) -> str:
    """The state's file name: beside an adapter, or beside train.py's ``step-<step>-epoch-...pt``."""
    return STATE_FILE if step is None else f"step-{step:06d}-{STATE_FILE}"


class ResumeError(ValueError):
    """A state or an adapter that is not there, is damaged, or belongs to another run."""


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain numbers to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state at ``path``, made with the same subspaces.

    ``identity``: what must be equal, ``subspaces``, and ``settings``, of which a difference is a warning.

    Raises ``ResumeError`` if there is none, it cannot be read, or it is of other subspaces.
    """
    if not path.is_file():
        raise ResumeError(
            f"{path}: no state of gradient surgery there, so the thermostat would begin anew; "
            "resume a folder that a run with surgery saved, or start a run without resuming"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ResumeError(f"{path} cannot be read ({error}); resume an earlier checkpoint") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is not of format {FORMAT}; resume a checkpoint of this version")
    made = state["identity"]
    if made["subspaces"] != identity["subspaces"]:
        raise ResumeError(
            f"{path} was saved with other subspaces than surgery.subspace_dir holds; give the ones that it began with"
        )
    changed = [name for name, value in identity["settings"].items() if made["settings"].get(name) != value]
    if changed:
        warnings.warn(
            f"{path} was saved with other values of surgery.{', surgery.'.join(sorted(changed))}; those given now hold",
            stacklevel=2,
        )
    return state


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Put the LoRA weights saved in ``folder`` into a ``PeftModel``, in place.

    Raises ``ResumeError``, before anything is changed, if the folder holds no adapter, or one of another rank, alpha or
    set of modules.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if not any((folder / name).is_file() for name in _ADAPTERS) or not (folder / "adapter_config.json").is_file():
        raise ResumeError(f"{folder}: no saved adapter there ({' or '.join(_ADAPTERS)}, adapter_config.json)")
    saved_config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config = model.peft_config[model.active_adapter]  # type: ignore[index, union-attr]
    for name, option in (("r", "lora_rank"), ("lora_alpha", "lora_rank")):
        if saved_config.get(name) != getattr(config, name):
            raise ResumeError(
                f"{folder}: its adapter has {name}={saved_config.get(name)}, this run {getattr(config, name)}; "
                f"give the {option} that it was trained with"
            )
    saved = load_peft_weights(str(folder), device="cpu")
    here = _lora_shapes(get_peft_model_state_dict(model, save_embedding_layers=False))
    there = _lora_shapes(saved)
    if here != there:
        differing = sorted({name for name, _ in here.items() ^ there.items()})
        raise ResumeError(
            f"{folder}: its adapter is of another model: {len(differing)} LoRA weights differ in name or shape, "
            f"{differing[0]} the first; use the vla_path and LoRA settings that it was trained with"
        )
    set_peft_model_state_dict(model, saved, adapter_name=model.active_adapter)


def _lora_shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in state.items() if "lora_" in name}
