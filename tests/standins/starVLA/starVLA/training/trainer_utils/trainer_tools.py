"""Dotted arguments, parameter groups, freezing, loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn


def normalize_dotlist_args(args: list[str]) -> list[str]:
    """``--a.b 1``, ``--a.b=1`` and ``--a.b`` as OmegaConf's ``a.b=1`` and ``a.b=true``."""
    found: list[str] = []
    rest = list(args)
    while rest:
        name = rest.pop(0)
        if not name.startswith("--"):
            continue
        if "=" not in name:
            name += "=" + (rest.pop(0) if rest and not rest[0].startswith("--") else "true")
        found.append(name.lstrip("-"))
    return found


def module_at(model: nn.Module, path: str) -> nn.Module | None:
    """The module of a dotted path, or None where there is none."""
    for name in path.split("."):
        model = getattr(model, name, None)
        if model is None:
            return None
    return model


def paths_of(text: Any) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else []


def build_param_lr_groups(model: nn.Module, cfg: Any) -> list[dict[str, Any]]:
    """One group a module that ``trainer.learning_rate`` names, the rest at ``base``; what is frozen in none."""
    rates = cfg.trainer.learning_rate
    frozen = [module_at(model, path) for path in paths_of(cfg.trainer.get("freeze_modules", ""))]
    taken = {id(parameter) for module in frozen if module is not None for parameter in module.parameters()}
    groups = []
    for name, rate in [*((n, r) for n, r in rates.items() if n != "base"), ("base", rates.get("base", 1e-4))]:
        module = model if name == "base" else module_at(model, name)
        mine = [] if module is None else [each for each in module.parameters() if id(each) not in taken]
        if mine:
            groups.append({"params": mine, "lr": rate, "name": name})
            taken |= {id(parameter) for parameter in mine}
    return groups


def resize_images(images: Any, target_size: tuple[int, int] = (224, 224)) -> Any:
    if isinstance(images, Image.Image):
        return images.resize(tuple(target_size))
    return [resize_images(each, target_size) for each in images]


class TrainerUtils:
    @staticmethod
    def freeze_backbones(model: nn.Module, freeze_modules: Any = "") -> nn.Module:
        """Freezes the modules of a list with commas; a path that leads nowhere is said and left."""
        for path in paths_of(freeze_modules):
            module = module_at(model, path)
            if module is None:
                print(f"nothing to freeze at {path}")
            else:
                module.requires_grad_(False)
        return model

    @staticmethod
    def print_trainable_parameters(model: nn.Module) -> tuple[int, int]:
        counts = [(each.numel(), each.numel() * each.requires_grad) for each in model.parameters()]
        whole, trained = (sum(column) for column in zip(*counts, strict=True))
        print(f"{trained} of {whole} parameters are trained")
        return whole, trained

    @staticmethod
    def load_pretrained_backbones(model: nn.Module, checkpoint_path: Any = None, reload_modules: Any = None) -> Any:
        """The whole model, leniently, or strictly only the modules of a list with commas."""
        state = torch.load(checkpoint_path, map_location="cpu")
        if not reload_modules:
            model.load_state_dict(state, strict=False)
        for path in paths_of(reload_modules):
            part = {key.removeprefix(f"{path}."): value for key, value in state.items() if key.startswith(f"{path}.")}
            module = module_at(model, path)
            if module is not None and part:
                module.load_state_dict(part, strict=True)
        return model

    @staticmethod
    def setup_distributed_training(accelerator: Any, *components: Any) -> Any:
        return accelerator.prepare(*components)

    @staticmethod
    def euclidean_distance(predicted: np.ndarray, ground_truth: np.ndarray) -> float:
        return float(np.linalg.norm(predicted - ground_truth))

    @staticmethod
    def _reset_dataloader(dataloader: Any, epoch_counter: int) -> tuple[Any, int]:
        return iter(dataloader), epoch_counter + 1

    def _get_latest_checkpoint(self, checkpoint_dir: str) -> tuple[str | None, int]:
        """The checkpoint of the most steps and their number, or None and 0."""
        steps = {}
        for path in Path(checkpoint_dir).glob("steps_*_pytorch_model.pt"):
            if found := re.fullmatch(r"steps_(\d+)_pytorch_model\.pt", path.name):
                steps[int(found[1])] = str(path)
        return (steps[max(steps)], max(steps)) if steps else (None, 0)
