"""Runs a script of openvla at one seed and writes down what it computes, bit for bit.

    python tests/openvla_real/recorded.py SEED RECORD SCRIPT [ARGUMENTS ...]

RECORD gets a line of JSON for every backward pass ({"loss": hexadecimal float}) and one for every optimizer step
({"weights": SHA-256 over all optimized parameters after it}). Upstream logs every tenth loss only, and shuffles
its data without a seed. Under torchrun each rank writes RECORD with its rank appended.

With ONE=N in the environment the first rank computes the gradient of backward pass N (from 0) over again, alone, from
every rank's batch, and writes {"apart": how far what DDP made of it is from that, relative to its length}.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import runpy
import sys
from pathlib import Path
from typing import Any, TextIO

LAUNCHER = Path(__file__).resolve().parents[2] / "runners" / "openvla_on_cpu.py"


def seed_everything(seed: int) -> None:
    import numpy
    import tensorflow
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    tensorflow.random.set_seed(seed)
    # Without it, parallel readers and mappers draw their random numbers in the order in which they happen to run.
    tensorflow.config.experimental.enable_op_determinism()


def digest(optimizer: Any) -> str:
    """SHA-256 (hex) over the bytes of every parameter of every group, in order."""
    import torch

    found = hashlib.sha256()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found.update(parameter.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def record(file: TextIO) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def write(**entry: str | float) -> None:
        file.write(json.dumps(entry) + "\n")
        file.flush()

    one = int(os.environ.get("ONE", "-1"))
    passes, models = [0], []
    backward, forward = torch.Tensor.backward, DistributedDataParallel.forward

    def kept(self: Any, *arguments: Any, **batch: Any) -> Any:
        if passes[0] == one and torch.is_grad_enabled():
            models[:] = [self.module]
            torch.save(batch, f"batch.{dist.get_rank()}")
        return forward(self, *arguments, **batch)

    def recorded(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
        write(loss=self.item().hex())
        backward(self, *arguments, **options)
        if passes[0] == one and dist.get_rank() == 0:
            write(apart=from_one_rank(models[0]))
        passes[0] += 1

    torch.Tensor.backward, DistributedDataParallel.forward = recorded, kept
    register_optimizer_step_post_hook(lambda optimizer, *_: write(weights=digest(optimizer)))


def from_one_rank(model: Any) -> float:
    """How far DDP's gradient is from the mean over all ranks' batches; what damps a gradient is still on the model."""
    import torch
    import torch.distributed as dist

    parameters = [each for each in model.parameters() if each.requires_grad and each.grad is not None]
    means = [torch.zeros_like(each, dtype=torch.float64) for each in parameters]
    for rank in range(dist.get_world_size()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**torch.load(f"batch.{rank}", weights_only=False)).loss
        for mean, part in zip(means, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if part is not None:
                mean += part.double() / dist.get_world_size()
    gap = sum(float((each.grad - mean).square().sum()) for each, mean in zip(parameters, means, strict=True)) ** 0.5
    return gap / sum(float(mean.square().sum()) for mean in means) ** 0.5


def main() -> None:
    if len(sys.argv) < 4:
        raise SystemExit("usage: python tests/openvla_real/recorded.py SEED RECORD SCRIPT [ARGUMENTS ...]")
    rank = int(os.environ.get("RANK", "0"))
    path = sys.argv[2] + (f".{rank}" if "RANK" in os.environ else "")
    seed_everything(int(sys.argv[1]) + rank)
    sys.argv = [str(LAUNCHER), *sys.argv[3:]]
    with open(path, "w", encoding="utf-8") as file:
        record(file)
        runpy.run_path(str(LAUNCHER), run_name="__main__")


if __name__ == "__main__":
    main()
