"""Runs a training script of starVLA on the tiny data set and writes down what it computes, bit for bit.

    python tests/starvla_real/recorded.py SEED RECORD SCRIPT [ARGUMENTS ...]

The seed is for the model's first weights, which upstream draws before it sets its own. RECORD gets a line of JSON for
every backward pass ({"loss": hexadecimal float}) and one for every optimizer step ({"weights": SHA-256 over all
parameters after it}). The script itself is run as it is, with a group of one process. Upstream asks for sixteen worker
processes whatever the configuration says; here the data is read in the process itself.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))


def alone() -> None:
    """The variables of a launcher for one process; a free port, so that runs beside each other do not meet."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(group)


def seed_everything(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def digest(parameters: Any) -> str:
    """SHA-256 (hex) over the bytes of every parameter, in order."""
    import torch

    found = hashlib.sha256()
    for parameter in parameters:
        found.update(parameter.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def record(file: TextIO) -> None:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def write(**entry: str) -> None:
        file.write(json.dumps(entry) + "\n")
        file.flush()

    backward = torch.Tensor.backward

    def recorded(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
        write(loss=self.item().hex())
        backward(self, *arguments, **options)

    def weights(optimizer: Any, *_: Any) -> None:
        write(weights=digest(p for group in optimizer.param_groups for p in group["params"]))

    torch.Tensor.backward = recorded
    register_optimizer_step_post_hook(weights)


def read_here() -> None:
    import torch

    made = torch.utils.data.DataLoader.__init__

    def without_workers(self: Any, *arguments: Any, **options: Any) -> None:
        own = {"num_workers": 0, "pin_memory": False, "persistent_workers": False, "prefetch_factor": None}
        made(self, *arguments, **{**options, **own})

    torch.utils.data.DataLoader.__init__ = without_workers


def main() -> None:
    if len(sys.argv) < 4:
        raise SystemExit("usage: python tests/starvla_real/recorded.py SEED RECORD SCRIPT [ARGUMENTS ...]")
    seed, path, script, *arguments = sys.argv[1:]
    alone()
    seed_everything(int(seed))
    read_here()
    import tiny_robot

    tiny_robot.register()
    sys.argv = [script, *arguments]
    with open(path, "w", encoding="utf-8") as file:
        record(file)
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
