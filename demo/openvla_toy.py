"""Makes what the stand-in for openvla is fine-tuned on: a briefly trained toy model and a data set in its format.

    PYTHONPATH=tests/standins/openvla python demo/openvla_toy.py FOLDER      (in the environment of LLaMA-Factory)

Nothing is downloaded. The same seed gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from toy_world.batches import write_data
from toy_world.pretrain import pretrain
from toy_world.tasks import make_world

MODEL, DATA, NAME = "toy-7b", "data", "libero_spatial_no_noops"
STEPS, SAMPLES, EPISODES = 60, 480, 192
"""Few: the demo shows that the method runs and what it does to a gradient, and needs no accuracy."""


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    write_data(folder / DATA, NAME, make_world(0).samples("downstream", EPISODES))
    pretrain(folder / MODEL, steps=STEPS, samples=SAMPLES)
    print(f"{folder}: a toy model after {STEPS} steps, {EPISODES} samples to fine-tune it on")


if __name__ == "__main__":
    main()
