"""The routing memory in a checkpoint's JSON: its epochs once, and of the chunk under way what each rank has summed."""

from typing import Any

import torch
import torch.distributed as dist

from ..infodyn.routing_history import RoutingHistory


def sums_of_ranks(memory: RoutingHistory) -> list[Any]:
    """What each rank has summed since the last epoch's end, as lists, in the order of ranks. Collective."""
    own = as_lists(memory.state_dict()["sums"])
    if not (dist.is_available() and dist.is_initialized()):
        return [own]

    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return parts


def load_memory(memory: RoutingHistory, epochs: Any, sums: list[Any], rank: int, ranks: int) -> None:
    """Take over the epochs, and this rank's share of the sums: its own, where there are as many ranks as there were."""
    own: dict[str, dict[str, torch.Tensor]] = {}
    for part in sums[rank::ranks]:
        for task, layers in as_tensors(part).items():
            kept = own.setdefault(task, {})
            for layer, counted in layers.items():
                kept[layer] = kept[layer] + counted if layer in kept else counted

    memory.load_state_dict({"epochs": as_tensors(epochs), "sums": own})


def as_lists(found: Any) -> Any:
    """Tensors as lists, which JSON keeps exactly."""
    if isinstance(found, dict):
        return {name: as_lists(value) for name, value in found.items()}

    return [as_lists(value) for value in found] if isinstance(found, list) else _plain(found)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def as_tensors(found: Any) -> Any:
    """The inverse, where the innermost lists were float64 vectors."""
    if isinstance(found, dict):
        return {name: as_tensors(value) for name, value in found.items()}

    if found and isinstance(found[0], list):
        return [as_tensors(value) for value in found]

    return torch.tensor(found, dtype=torch.float64)
