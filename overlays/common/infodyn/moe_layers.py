"""Where a model's experts are, and what chooses among them: found by structure, whatever the library.

    experts   a module whose name ends in ``experts``: a ModuleList or ModuleDict with a module for each expert, or one
              module with the weights of all in parameters of three dimensions ``[experts, ., .]`` (fused)
    router    a sibling named ``*router*``, ``*gate*`` or ``*gating*`` with a weight ``[experts, .]``, or which says
              ``num_experts``

The path of an expert is ``<experts>.<name>``, of a fused one ``<experts>.<index>``, though no module is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

_ROUTERS = ("router", "gate", "gating")
_NUMBERS = ("num_experts", "n_routed_experts", "num_local_experts", "n_experts")
_TOP_K = ("top_k", "num_experts_per_tok", "moe_top_k", "k")


@dataclass(frozen=True)
class MoELayer:
    """One layer of experts.

    Attributes:
        experts: path of the experts' module.
        names: each expert's name below it, in the order of the router's indices.
        fused: whether one module holds the weights of all.
        router: path of what chooses; ``None`` where none was recognised.
        top_k: how many it chooses for a token, where the router, the block around it or their configuration says so.
    """

    experts: str
    names: tuple[str, ...]
    fused: bool
    router: str | None
    top_k: int | None

    @property
    def paths(self) -> list[str]:
        """Each expert's path."""
        return [f"{self.experts}.{name}" for name in self.names]

    def concerns(self, path: str) -> bool:
        """Whether ``path`` is in this layer, is the block of it, or holds it."""
        block = self.experts.rpartition(".")[0]
        return not block or f"{path}.".startswith(f"{block}.") or f"{block}.".startswith(f"{path}.")


def find_moe_layers(modules: Mapping[str, nn.Module]) -> list[MoELayer]:
    """The layers of experts among ``modules`` by path, in their order."""
    layers = []
    for path, module in modules.items():
        block, _, name = path.rpartition(".")
        if not name.endswith("experts"):
            continue
        names = _names(module)
        if names:
            router = _router(block, path, len(names), modules)
            top_k = _top_k([modules.get(router or ""), modules.get(block), module])
            layers.append(MoELayer(path, names, not isinstance(module, nn.ModuleList | nn.ModuleDict), router, top_k))
    return layers


def _names(experts: nn.Module) -> tuple[str, ...]:
    if isinstance(experts, nn.ModuleList | nn.ModuleDict):
        alike = len({type(child) for child in experts.children()}) == 1
        return tuple(name for name, _ in experts.named_children()) if alike and len(experts) > 1 else ()
    leading = {len(parameter) for parameter in experts.parameters() if parameter.ndim == 3}
    return tuple(str(index) for index in range(leading.pop())) if len(leading) == 1 else ()


def _router(block: str, experts: str, number: int, modules: Mapping[str, nn.Module]) -> str | None:
    """In the order of _ROUTERS: where a block has a router and a gate, the gate is of something else."""
    prefix = f"{block}." if block else ""
    siblings = [path for path in modules if path.startswith(prefix) and "." not in path[len(prefix) :]]
    for word in _ROUTERS:
        for path in siblings:
            if path != experts and word in path[len(prefix) :] and _chooses_among(modules[path], number):
                return path
    return None


def _chooses_among(module: nn.Module, number: int) -> bool:
    says = any(getattr(module, name, None) == number for name in _NUMBERS)
    return says or any(parameter.ndim == 2 and len(parameter) == number for parameter in module.parameters())


def _top_k(modules: list[nn.Module | None]) -> int | None:
    for module in modules:
        for holder in (module, getattr(module, "config", None)):
            for name in _TOP_K:
                value = getattr(holder, name, None)
                if isinstance(value, int) and value > 0:
                    return value
    return None
