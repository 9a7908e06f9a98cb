"""Runs a script with every random number generator seeded: upstream's finetune.py has no option for it.

    python runners/seeded.py SEED SCRIPT [ARGUMENTS ...]

Under torchrun each rank gets a seed of its own, since upstream lets every rank shuffle the whole data set.
"""

from __future__ import annotations

import importlib.util
import os
import random
import runpy
import sys
from pathlib import Path


def seed_everything(seed: int) -> None:
    """Seeds Python, and numpy, torch and TensorFlow where they are installed."""
    random.seed(seed)
    if importlib.util.find_spec("numpy"):
        import numpy

        numpy.random.seed(seed)
    if importlib.util.find_spec("torch"):
        import torch

        torch.manual_seed(seed)
    if importlib.util.find_spec("tensorflow"):
        import tensorflow

        tensorflow.random.set_seed(seed)
        # Otherwise parallel readers draw in the order in which they happen to run, and no two trainings are alike.
        tensorflow.config.experimental.enable_op_determinism()


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        raise SystemExit("usage: python runners/seeded.py SEED SCRIPT [ARGUMENTS ...]")
    seed, script = int(sys.argv[1]), Path(sys.argv[2])
    if not script.is_file():
        raise SystemExit(f"{script} is not there: name the script that seeded.py is to run")
    sys.argv = sys.argv[2:]
    sys.path[0] = str(script.resolve().parent)
    seed_everything(seed + 1000 * int(os.environ.get("RANK", "0")))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
