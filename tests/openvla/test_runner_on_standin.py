"""The runner from end to end on the grafted stand-in: it trains with every part of the method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runners import table
from tests.standins.openvla_project import OpenVLAProject

# The stand-in's LIBERO has the downstream tasks under every name, so what is forgotten is measured by its own command.
GENERAL = """
import json, pathlib, sys
from toy_world.evaluate import evaluate_checkpoint
from toy_world.tasks import make_world
share = evaluate_checkpoint(pathlib.Path(sys.argv[1]), make_world(0), 24)["general_accuracy"]
right = round(24 * share)
result = {"complete": True, "task_suite_name": "toy_general", "episodes": 24, "successes": right, "errors": 0}
pathlib.Path(sys.argv[2]).write_text(json.dumps(result))
"""


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HOME")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = table.command("openvla-gradient-surgery", *arguments, python=sys.executable)
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def arguments(project: OpenVLAProject, materials: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("runner")
    script = place / "general.py"
    script.write_text(GENERAL, encoding="utf-8")
    settings = (
        *("icsm.layers=1,2", "icsm.r=8", "icsm.dtype=float32", "finetune.batch_size=4", "finetune.lora_rank=4"),
        *("surgery.log_every=1", "surgery.thermostat.every=2", "surgery.thermostat.samples=8"),
    )
    return [
        *("--vla-path", str(materials.checkpoint), "--data-root", str(materials.data), "--cpu", "--gl", "none"),
        *("--dataset-name", "libero_spatial_no_noops", "--max-steps", "4", "--num-tasks", "1", "--num-trials", "1"),
        *("--checkout", str(project.patched), "--libero", str(project.patched), "--python", sys.executable),
        *("--work", str(place / "work"), "--name", "toy", "--probe-n", "16", "--arms", "method"),
        *("--probe-dataset", "toy_general"),
        *("--general-command", f"toy_general={{python}} {script} {{checkpoint}} {{results}}"),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def test_the_method_trains_is_evaluated_and_reported(arguments: list[str]) -> None:
    done = run(arguments)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    home = Path(arguments[arguments.index("--work") + 1]) / "toy"
    rows = [json.loads(line) for path in home.glob("train/method/seed0/runs/*/metrics.jsonl") for line in path.open()]
    assert [row["step"] for row in rows] == list(range(5))
    source = json.loads((home / "probe" / "set" / "meta.json").read_text(encoding="utf-8"))["source"]
    assert (source["dataset_name"], source["split"]) == ("toy_general", "train")
    assert all(found["g_after"] < found["g"] for row in rows for found in row["norms"].values())
    html = (home / "report.html").read_text(encoding="utf-8")
    assert "is not the pinned upstream" in html
    assert "Did not end well" not in html
    assert "Missing" not in html
    part = html[html.index('id="steering"') : html.index('id="norms"')]
    assert part.count('class="line') == 3
    again = run(arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": kept (") == 6
    assert ": done in" not in again.stdout
