"""Which upstreams a test run had, real or stood in for: for its last lines, and for ``--require-upstream``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest


class States:
    """What the tests of this run have said."""

    def __init__(self) -> None:
        self.required: list[str] = []
        self.real: dict[str, str] = {}
        self.stood_in: dict[str, str] = {}

    def begin(self, required: Iterable[str]) -> None:
        self.required = list(required)
        self.real.clear()
        self.stood_in.clear()

    def missing(self) -> list[str]:
        """Required upstreams of which this run used nothing real."""
        return [name for name in self.required if name not in self.real]


STATES = States()


def real(name: str, what: str) -> None:
    """Takes note that tests ran on the real upstream; ``what`` says where and at which commit."""
    STATES.real[name] = what


def stands_in(name: str, why: str) -> None:
    """Takes note that a stand-in took an upstream's place, where the real one was wanted and could not be had.

    Fails the calling test or fixture where ``--require-upstream`` names it.
    """
    STATES.stood_in[name] = why
    if name in STATES.required:
        pytest.fail(f"--require-upstream {name}: a stand-in would have taken its place ({why})", pytrace=False)


def checkout_state(checkout: Path, commit: str) -> str | None:
    """``commit at path`` where a checkout is there with the pinned commit as HEAD, else None."""
    if not (checkout / ".git").exists():
        return None
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=False)
    return f"{commit[:10]} at {checkout}" if head.stdout.strip() == commit else None


def summary() -> list[str]:
    """As in ``upstreams: openvla real (c8f03f48af at ...)``; a line for each that a test said anything about."""
    names = sorted({*STATES.real, *STATES.stood_in})
    lines = []
    for name in names:
        parts = [f"real ({STATES.real[name]})"] if name in STATES.real else []
        parts += [f"stand-in ({STATES.stood_in[name]})"] if name in STATES.stood_in else []
        lines.append(f"upstreams: {name} {' and '.join(parts)}")
    return lines
