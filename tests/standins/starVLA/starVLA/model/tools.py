"""The registry of frameworks."""

from __future__ import annotations

from typing import Any


class Registry:
    def __init__(self, name: str) -> None:
        self.name, self._registry = name, {}

    def register(self, key: str) -> Any:
        def decorator(framework_class: type) -> type:
            self._registry[key] = framework_class
            return framework_class

        return decorator

    def __getitem__(self, key: str) -> type:
        return self._registry[key]

    def list(self) -> dict[str, type]:
        return dict(self._registry)


FRAMEWORK_REGISTRY = Registry("frameworks")
