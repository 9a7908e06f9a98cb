"""A logger."""

from __future__ import annotations

import logging


def initialize_overwatch(name: str) -> logging.Logger:
    return logging.getLogger(name)
