"""What a run's probes left, and its analysis by `python -m runners analyze-oid` in its own environment."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runners import table

PYTHON = table.interpreter("infodyn")


def contents(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The files of the epochs from 0, of which there must be so many and nothing else, as torch itself reads them."""
    import torch

    names = [f"epoch_{epoch}.pt.gz" for epoch in range(epochs)]
    assert sorted(path.name for path in folder.iterdir()) == names
    read = []
    for name in names:
        with gzip.open(folder / name) as file:
            read.append(torch.load(file, weights_only=True))
    return read


def atoms(run_dir: Path, probe: str, *options: object) -> list[dict[str, str]]:
    """The lines of `atoms.csv`; skips where the environment is not there, and fails where the runner does."""
    if not PYTHON.exists():
        pytest.skip("no .venvs/infodyn: run `make infodyn`")
    asked = ["--run-dir", run_dir, "--probe-name", probe, "--jobs", 1, *options]
    command = table.command("analyze-oid", *asked, python=PYTHON)
    ran = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with open(run_dir / "oid_plots" / probe / "atoms.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_pairs(rows: list[dict[str, str]], epochs: list[int], modules: int) -> None:
    """Each pair of the modules has figures in each epoch, and tells something about the target."""
    totals = [row for row in rows if row["atom"] == "total"]
    pairs = modules * (modules - 1) // 2
    assert sorted(int(row["epoch"]) for row in totals) == sorted(epochs * pairs)
    assert len({(row["expert_i"], row["expert_j"]) for row in totals}) == pairs
    assert all(row["not_computed"] == "" and float(row["low"]) > 0 for row in totals)
