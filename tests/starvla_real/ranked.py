"""Runs a training script of starVLA on one rank of several, and writes down what that rank has after every step.

    RANK=0 WORLD_SIZE=2 ... python tests/starvla_real/ranked.py SEED FOLDER SCRIPT [ARGUMENTS ...]

FOLDER/RANK.jsonl gets a line for every step of DeepSpeed's engine: the rank's own loss (hexadecimal) and SHA-256 over
all weights of the model. Gradients and the optimizer's state are sharded over ranks there, and equal on none.

With ONE=1 in the environment the first rank computes the last step's gradient over again, alone, from every rank's
batch and random numbers, and adds to the step's line how far the ranks' gradient is from it, relative to its length.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import native
import recorded


def watch(file: Path, last: int | None) -> None:
    """``last``: the step, from 0, whose gradient one rank computes over again."""
    import torch
    from deepspeed import DeepSpeedEngine

    losses: list[str] = []
    apart: dict[str, float] = {}
    forward, backward, step = DeepSpeedEngine.forward, DeepSpeedEngine.backward, DeepSpeedEngine.step

    def kept(self: Any, batch: Any) -> Any:
        if len(losses) == last:
            torch.save((batch, random_states()), file.with_suffix(".pt"))
        return forward(self, batch)

    def measured(self: Any, loss: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        losses.append(loss.item().hex())
        done = backward(self, loss, *arguments, **options)
        if len(losses) - 1 == last:
            apart["apart"] = from_one_rank(self.module, file.parent)
        return done

    def stepped(self: Any, *arguments: Any, **options: Any) -> Any:
        done = step(self, *arguments, **options)
        line = {"loss": losses[-1], "weights": recorded.digest(self.module.parameters()), **apart}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        return done

    DeepSpeedEngine.forward, DeepSpeedEngine.backward, DeepSpeedEngine.step = kept, measured, stepped


def random_states() -> tuple[Any, ...]:
    import numpy
    import torch

    return random.getstate(), numpy.random.get_state(), torch.get_rng_state()


def set_random_states(states: tuple[Any, ...]) -> None:
    import numpy
    import torch

    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.set_rng_state(states[2])


def from_one_rank(module: Any, folder: Path) -> float:
    """How far the gradient that all ranks agreed on is from the mean over their batches, computed here. Collective."""
    import torch
    import torch.distributed as dist
    from deepspeed.utils import safe_get_full_grad

    parameters = [each for each in module.parameters() if each.requires_grad]
    agreed = [safe_get_full_grad(each) for each in parameters]
    if dist.get_rank() != 0:
        return 0.0
    own, ranks = random_states(), dist.get_world_size()
    means = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
    for rank in range(ranks):
        batch, states = torch.load(folder / f"{rank}.pt", weights_only=False)
        set_random_states(states)
        loss = module(batch)["action_loss"]
        # Not `backward`, which would have the engine reduce once more.
        for mean, part in zip(means, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if part is not None:
                mean += part.double() / ranks
    set_random_states(own)
    pairs = [(m, torch.zeros_like(m) if a is None else a.double()) for m, a in zip(means, agreed, strict=True)]
    gap, length = (sum(float(each.square().sum()) for each in tensors) ** 0.5 for tensors in (
        [agreed - mean for mean, agreed in pairs], means
    ))  # fmt: skip
    return gap / length


def main() -> None:
    seed, folder, script, *arguments = sys.argv[1:]
    recorded.seed_everything(int(seed))
    recorded.read_here()
    import tiny_robot

    tiny_robot.register()
    last = native.STEPS - 1 if os.environ.get("ONE") == "1" else None
    watch(Path(folder, f"{os.environ['RANK']}.jsonl"), last)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
