"""Run by test_guard_ranks.py in processes of their own: the input guard on the ranks of a gloo group.

python guard_ranks.py RANK SIZE FOLDER      writes FOLDER/RANK.pt: the bases and the factors that this rank comes to

Every rank has a probe set and training data of its own, and draws its own factors, which DDP makes the main rank's.
Under upstream's launcher all ranks read one probe set; what differs there is arithmetic, in the last place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from guard_models import ACTIONS, SHARE, model_with_lora, probe_batch
from research.hooks.input_basis import width_of
from research.hooks.input_guard import InputGuard, lora_layers
from research.probe.batch import ProbeBatch
from research.ranks import Ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCHES = 4, 3


def probes(rank: int) -> list[ProbeBatch]:
    return [probe_batch(10 * rank + number) for number in range(BATCHES)]


def loss_of(model: nn.Module, share: Sequence[int], step: int) -> torch.Tensor:
    """Mean over the ranks of ``share`` of their loss on a batch of their own."""
    losses = []
    for rank in share:
        batch = probe_batch(1000 + 100 * rank + step)
        pixels = batch.pixel_values.to(next(model.parameters()).dtype)
        logits = model(batch.input_ids, batch.attention_mask, pixels).logits
        losses.append(nn.functional.cross_entropy(logits[:, -6:].flatten(0, 1), batch.input_ids.roll(1, 1).flatten()))
    return torch.stack(losses).mean()


def train(model: nn.Module, share: Sequence[int], after: Callable[[], None] = lambda: None) -> None:
    """AdamW on LoRA's factors; ``after`` every step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(STEPS):
        loss_of(model, share, step).backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def factors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    inner = model_with_lora(seed=3 + rank)
    model = DistributedDataParallel(inner)
    layers = lora_layers(inner)
    room = 4 * 8 * width_of(next(iter(layers.values()))) ** 2
    guard = InputGuard.measured(model, lambda: probes(rank), Ranks.of(model), SHARE, ACTIONS, 1000, 1, room=room)
    found: dict[str, Any] = {"start": factors_of(inner)}
    found["bases"] = dict(zip(layers, (basis for _, basis in guard._held), strict=True))
    guard.install()
    train(model, [rank])
    guard.remove()
    torch.save({**found, "end": factors_of(inner)}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
