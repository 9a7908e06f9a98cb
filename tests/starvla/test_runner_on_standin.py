"""The runner from end to end on the grafted stand-in: four stages of a few steps, then nothing left to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from toy import Toy

from runners import table
from tests.standins.starvla_project import StarVLAProject

STAGES = ("alignment", "dynamics", "imitation", "correction")
SMALL = (
    *("framework.sagr.geometry.patch=8", "framework.sagr.dim=32", "framework.sagr.anchor.slots=4"),
    *("framework.sagr.anchor.heads=4", "framework.sagr.world.heads=4", "framework.sagr.world.hidden=64"),
)


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HOME")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = table.command("starvla-sagr-flow", *arguments, python=sys.executable)
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def arguments(project: StarVLAProject, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        *("--config-yaml", str(toy.config), "--base-vlm", str(toy.model), "--data-root", str(toy.data), "--cpu"),
        *("--data-mix", "toy_next", "--feedback", "--grounding", "--steps", "3", "--checkout", str(project.patched)),
        *("--python", sys.executable, "--work", str(tmp_path_factory.mktemp("runner") / "work")),
        *(word for setting in SMALL for word in ("--set", setting)),
    ]


def test_four_stages_train_and_are_kept(arguments: list[str]) -> None:
    done = run(arguments)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    home = Path(arguments[arguments.index("--work") + 1]) / "run"
    before = None
    for stage in STAGES:
        folder = home / stage / "runs" / stage
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert [row["loss/ground"] > 0 for row in rows if "loss/ground" in row] == [True] * 3 * (stage != "dynamics")
        after = torch.load(folder / "final_model" / "pytorch_model.pt", weights_only=True)
        vlm = [name for name in after if name.startswith("qwen_vl_interface.")]
        assert vlm
        assert before is None or all(torch.equal(before[name], after[name]) for name in vlm)
        before = after
    assert any(name.startswith("causal_feedback.") for name in before)
    again = run(arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": kept (") == 4
    assert ": done in" not in again.stdout
