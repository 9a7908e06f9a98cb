"""The framework of the grafted stand-in in the process of the test."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from toy import Toy

from bench.closed_loop_policy import build, configuration
from tests.standins.starvla_project import StarVLAProject

OURS = ("starVLA", "deployment")


@contextmanager
def untrained(project: StarVLAProject, toy: Toy, trained: str, sagr: Mapping[str, Any]) -> Iterator[Any]:
    """One of the bench's policies, untrained, with a predictor that expects something."""
    _forget()
    sys.path.insert(0, str(project.patched))
    try:
        torch.manual_seed(0)
        made = build(configuration(toy.model, trained, sagr)).eval()
        torch.nn.init.normal_(made.world_predictor.change[-1].weight, std=0.05)
        yield made
    finally:
        sys.path.remove(str(project.patched))
        _forget()


def _forget() -> None:
    """Takes the tree's modules out: other trees have them under the same names."""
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]
