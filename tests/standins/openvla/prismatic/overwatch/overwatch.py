"""Logging that knows its rank."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any


class Overwatch:
    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def info(self, message: str, ctx_level: int = 0) -> None:
        if self.is_rank_zero():
            self.logger.info(message)

    @property
    def rank_zero_only(self) -> Callable[..., Any]:
        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def only(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs) if self.is_rank_zero() else None

            return only

        return wrap

    @staticmethod
    def rank() -> int:
        return int(os.environ.get("RANK", "0"))

    @staticmethod
    def local_rank() -> int:
        return int(os.environ.get("LOCAL_RANK", "0"))

    @staticmethod
    def world_size() -> int:
        return int(os.environ.get("WORLD_SIZE", "1"))

    def is_rank_zero(self) -> bool:
        return self.rank() == 0


def initialize_overwatch(name: str) -> Overwatch:
    return Overwatch(name)
