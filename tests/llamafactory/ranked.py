"""Trains as LLaMA-Factory's ``torchrun`` does, and writes down what each rank computes, bit for bit.

    python tests/llamafactory/ranked.py CONFIG.yaml                                           one process
    torchrun --nproc_per_node 2 tests/llamafactory/ranked.py CONFIG.yaml                      two

The output folder gets RANK.jsonl, a line an optimizer step: SHA-256 over all gradients and, after the step, over all
weights. A line ``{"choices": ...}`` at the end holds what this rank's own scheduler chose and why, where there is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook


def digest(tensors: Iterable[torch.Tensor | None]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(b"none" if tensor is None else tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def main() -> None:
    from llamafactory.train.tuner import run_exp

    output = Path(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    schedulers: list[Any] = []
    with open(output / f"{os.environ.get('RANK', '0')}.jsonl", "w", encoding="utf-8") as file:

        def stepped(optimizer: Any, *_: Any) -> None:
            own = [each for group in optimizer.param_groups for each in group["params"]]
            line = {"gradients": digest(each.grad for each in own), "weights": digest(own)}
            file.write(json.dumps(line) + "\n")

        register_optimizer_step_post_hook(stepped)
        if "llamafactory.infodyn" in sys.modules:
            from llamafactory.infodyn.dynamic_scheduler import DynamicScheduler

            start = DynamicScheduler.__init__

            def started(self: Any, *arguments: Any, **options: Any) -> None:
                schedulers.append(self)
                start(self, *arguments, **options)

            DynamicScheduler.__init__ = started
        run_exp()
        for scheduler in schedulers:
            file.write(json.dumps({"choices": [choice.__dict__ for choice in scheduler.choices]}) + "\n")


if __name__ == "__main__":
    main()
