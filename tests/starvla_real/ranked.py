"""Runs a training script of starVLA on one rank of several, and writes down what that rank has after every step.

    RANK=0 WORLD_SIZE=2 ... python tests/starvla_real/ranked.py SEED FOLDER SCRIPT [ARGUMENTS ...]

FOLDER/RANK.jsonl gets a line for every step of DeepSpeed's engine: the rank's own loss (hexadecimal) and SHA-256 over
all weights of the model. Gradients and the optimizer's state are sharded over ranks there, and equal on none.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import recorded


def watch(file: Path) -> None:
    import torch
    from deepspeed import DeepSpeedEngine

    losses: list[str] = []
    backward, step = DeepSpeedEngine.backward, DeepSpeedEngine.step

    def measured(self: Any, loss: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        losses.append(loss.item().hex())
        return backward(self, loss, *arguments, **options)

    def stepped(self: Any, *arguments: Any, **options: Any) -> Any:
        done = step(self, *arguments, **options)
        line = {"loss": losses[-1], "weights": recorded.digest(self.module.parameters())}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        return done

    DeepSpeedEngine.backward, DeepSpeedEngine.step = measured, stepped


def main() -> None:
    seed, folder, script, *arguments = sys.argv[1:]
    recorded.seed_everything(int(seed))
    recorded.read_here()
    import tiny_robot

    tiny_robot.register()
    watch(Path(folder, f"{os.environ['RANK']}.jsonl"))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
