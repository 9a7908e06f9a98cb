"""A configuration that remembers which of its keys were read: a run saves those and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf


class AccessTrackedConfig:
    """Reads as the node that it wraps does. Every node below one root adds to the same set of paths."""

    def __init__(self, cfg: DictConfig | ListConfig, parent: AccessTrackedConfig | None = None, key_path: str = ""):
        read: set[tuple[Any, ...]] = set() if parent is None else parent._read
        where: tuple[Any, ...] = () if parent is None else (*parent._where, key_path)
        for name, value in (("_cfg", cfg), ("_parent", parent), ("_where", where), ("_read", read)):
            object.__setattr__(self, name, value)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add((*self._where, key))
        value = self._cfg.get(key, default)
        return AccessTrackedConfig(value, self, key) if OmegaConf.is_config(value) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._cfg:
            raise AttributeError(f"the configuration has no {'.'.join((*self._where, name))}")
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(self._cfg, ListConfig):
            self._read.add(self._where)
            return self._cfg[key]
        return self.__getattr__(key)

    def __setattr__(self, name: str, value: Any) -> None:
        self._read.add((*self._where, name))
        self._cfg[name] = value

    __setitem__ = __setattr__

    def __contains__(self, key: Any) -> bool:
        self._read.add((*self._where, key))
        return key in self._cfg

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._cfg, ListConfig):
            self._read.add(self._where)
        else:
            self._read.update((*self._where, key) for key in self._cfg)
        return iter(self._cfg)

    def __len__(self) -> int:
        return len(self._cfg)

    def keys(self) -> list[Any]:
        return list(self)

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self.get(key)) for key in self]

    def to_dict(self, resolve: bool = True) -> Any:
        return OmegaConf.to_container(self._cfg, resolve=resolve)

    def unwrap(self) -> DictConfig | ListConfig:
        return self._cfg

    def export_accessed_config(self, use_original_values: bool = True) -> dict[str, Any]:
        """What was read, with today's values; a section counts whole only where none of its keys was read."""
        root = self
        while root._parent is not None:
            root = root._parent
        inner = {path[:length] for path in self._read for length in range(len(path))}
        kept: dict[str, Any] = {}
        for path in sorted(self._read - inner):
            source, target = root._cfg, kept
            for key in path[:-1]:
                source, target = (source.get(key) or {}), target.setdefault(key, {})
            if path[-1] in source:
                value = source[path[-1]]
                target[path[-1]] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        return kept

    def save_accessed_config(self, filepath: Path, use_original_values: bool = True) -> None:
        OmegaConf.save(OmegaConf.create(self.export_accessed_config(use_original_values)), filepath)


def wrap_config(cfg: DictConfig) -> AccessTrackedConfig:
    return AccessTrackedConfig(cfg)
