"""Runs a training script of starVLA on one rank of several, and writes down what that rank has after every step.

    RANK=0 WORLD_SIZE=2 ... python tests/starvla/ranked.py FOLDER SCRIPT [ARGUMENTS ...]

FOLDER/RANK.jsonl gets a line for every optimizer step: the rank's own loss (hexadecimal), SHA-256 over all gradients
and over all weights after it, and which trained parameters got no gradient. DDP is told that no parameter is unused,
but for those of GIVEN (a JSON list in that environment variable): it raises where one of the others is. With BLIND=1
the samples of every rank but the first have no valid next frame and no valid earlier one.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook


def digest(tensors: Iterable[torch.Tensor | None]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(b"none" if tensor is None else tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def main() -> None:
    folder, script, *arguments = sys.argv[1:]
    names: dict[int, str] = {}
    losses: list[str] = []
    given = set(json.loads(os.environ.get("GIVEN", "[]")))
    wrap, backward = DistributedDataParallel.__init__, torch.Tensor.backward

    def wrapped(self: Any, module: torch.nn.Module, *args: Any, **options: Any) -> None:
        names.update((id(each), name) for name, each in module.named_parameters())
        if given:
            # Frozen, they are no parameters of DDP's; they get no gradient either way.
            for name, each in module.named_parameters():
                each.requires_grad_(each.requires_grad and name not in given)
            options["find_unused_parameters"] = False
        wrap(self, module, *args, **options)
        if os.environ.get("BLIND") == "1" and os.environ["RANK"] != "0":
            whole = self.forward
            self.forward = lambda batch: whole([{**each, "valid_tk": 0.0, "valid_tp": 0.0} for each in batch])

    def recorded(self: torch.Tensor, *args: Any, **options: Any) -> None:
        losses.append(self.item().hex())
        backward(self, *args, **options)

    def stepped(optimizer: Any, *_: Any) -> None:
        own = [each for group in optimizer.param_groups for each in group["params"]]
        without = sorted(names[id(each)] for each in own if each.requires_grad and each.grad is None)
        line = {"loss": losses[-1], "gradients": digest(each.grad for each in own), "weights": digest(own)}
        with open(Path(folder, f"{os.environ['RANK']}.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "without": without}) + "\n")

    DistributedDataParallel.__init__, torch.Tensor.backward = wrapped, recorded
    register_optimizer_step_post_hook(stepped)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
