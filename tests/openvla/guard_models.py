"""Small models with LoRA for the input guard's tests, and its bases a second time: the SVD of whole inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from research.probe.batch import ProbeBatch
from surgery_models import PATCHES, VOCABULARY, TinyVLA
from torch import nn

SHARE, ACTIONS = 0.9, 3


class Answering(nn.Module):
    """TinyVLA with an output that has ``.logits``, as openvla's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyVLA()
        self.vision_backbone, self.language_model = self.inner.vision_backbone, self.inner.language_model

    def forward(
        self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, use_cache: bool = False
    ) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask, pixel_values)["logits"])


def model_with_lora(seed: int = 3) -> nn.Module:
    """Ten layers with LoRA, whose first factors are drawn by ``seed``; the model itself is the same for every seed."""
    model = Answering()
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=4, target_modules=["mix", "down"], init_lora_weights="gaussian"))


def probe_batch(seed: int = 0) -> ProbeBatch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([4, 6, 5])
    mask = torch.arange(6) < lengths.unsqueeze(1)
    ids = torch.randint(1, VOCABULARY, (3, 6), generator=draw) * mask
    pixels = torch.randn(3, PATCHES, 4, generator=draw)
    instruction = torch.zeros(3, PATCHES + 6, dtype=torch.bool)
    instruction[:, PATCHES + 1 : PATCHES + 3] = True
    return ProbeBatch(ids, mask, pixels, instruction, PATCHES + lengths - 1, ["a", "b", "c"])


@torch.no_grad()
def whole_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[ProbeBatch], actions: int = ACTIONS
) -> dict[str, np.ndarray[Any, Any]]:
    """All inputs ``[n, D]`` float64 of ``layers``: sample by sample, without padding, behind each prompt what the model
    would say next."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in layers}
    for batch in batches:
        for row, shown in enumerate(batch.attention_mask):
            ids = batch.input_ids[row : row + 1, : int(shown.sum())]
            pixels = batch.pixel_values[row : row + 1]
            for _ in range(actions - 1):
                ids = torch.cat([ids, model(ids, torch.ones_like(ids), pixels).logits[:, -1:].argmax(-1)], 1)
            handles = [
                layer.register_forward_pre_hook(lambda _, args, to=found[name]: to.append(args[0][0].double().numpy()))
                for name, layer in layers.items()
            ]
            model(ids, torch.ones_like(ids), pixels)
            for handle in handles:
                handle.remove()
    return {name: np.concatenate(parts) for name, parts in found.items()}


def directions(inputs: np.ndarray[Any, Any], share: float = SHARE) -> np.ndarray[Any, Any]:
    """``[D, k]``: the first right singular vectors of all rows at once, as many as hold ``share`` of the energy."""
    _, sizes, rows = np.linalg.svd(inputs, full_matrices=False)
    held, count = 0.0, 0
    while held < share * float((inputs**2).sum()):
        held += sizes[count] ** 2
        count += 1
    return rows[:count].T
