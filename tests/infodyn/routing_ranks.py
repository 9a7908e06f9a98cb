"""One of several ranks that remember their routing together: ``python routing_ranks.py RANK SIZE STORE FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "overlays" / "common"))

import torch
import torch.distributed as dist
from infodyn.routing_history import RoutingHistory

# By rank: tasks and how many tokens of the routing below each recorded. Task b is the second rank's alone.
SEEN = {0: {"a": 2}, 1: {"a": 6, "b": 1}}


def routing(rank: int, tokens: int) -> torch.Tensor:
    """``[tokens, 3]`` probabilities."""
    return torch.rand(tokens, 3, generator=torch.Generator().manual_seed(rank)).softmax(-1)


def main() -> None:
    rank, size, store, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    history = RoutingHistory()
    for task, tokens in SEEN[rank].items():
        with history.recording(task):
            history._outputs.append(("gate", routing(rank, tokens)))
    history.end_epoch()
    torch.save(history.state_dict(), f"{file}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
