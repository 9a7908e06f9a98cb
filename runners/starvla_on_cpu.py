"""Runs an unmodified script of starVLA on a machine without a GPU, in one process.

    python runners/starvla_on_cpu.py SCRIPT [ARGUMENTS ...]

Upstream's trainer asks for a process group, which here is one of this process alone, and at its pin for sixteen worker
processes to read data, whatever the configuration says: here the data is read in the process itself.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path
from typing import Any


def stand_alone() -> None:
    """The variables of a launcher for one process, on a free port; a launcher's own stay."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in own.items():
        os.environ.setdefault(name, value)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # It would choose DDP instead of deepspeed, and DDP stops at the head's layers that no loss reaches.
    os.environ.pop("ACCELERATE_USE_CPU", None)


def read_here() -> None:
    """Every DataLoader reads in this process."""
    import torch

    start = torch.utils.data.DataLoader.__init__
    own = {"num_workers": 0, "pin_memory": False, "persistent_workers": False, "prefetch_factor": None}

    def started(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **{**options, **own})

    torch.utils.data.DataLoader.__init__ = started


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit("usage: python runners/starvla_on_cpu.py SCRIPT [ARGUMENTS ...]")
    script = sys.argv[1]
    if not Path(script).is_file():
        raise SystemExit(f"{script} is not there: name the script of starVLA that starvla_on_cpu.py is to run")
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).resolve().parent)
    stand_alone()
    read_here()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
