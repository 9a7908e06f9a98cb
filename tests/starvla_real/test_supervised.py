"""`supervise` over the real starVLA trainer: killed, it ends with every step; a damaged checkpoint is passed over."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import native
import pytest
import torch

from runners.supervise.metrics.reader import Reader
from tests.launching.shims import shim
from tests.runners.supervise.real_runs import RealRun

STEPS, EVERY = 24, 4
STEP = r"Step (\d+), Loss"
SCRIPT = "training/train_starvla.py"


def supervised(home: Path, checkout: Path, materials: Path, *options: str) -> RealRun:
    """The trainer as it stands, on a processor; the shim only registers the tiny data set."""
    settings = native.configuration(materials, home / "runs")
    settings["trainer"] |= {"max_train_steps": STEPS, "save_interval": EVERY, "eval_interval": 1000}
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    recorded = native.HERE / "recorded.py"
    shim(home / "starVLA" / SCRIPT, recorded, native.SEED, "record", checkout / native.SCRIPT)
    command = [sys.executable, home / "starVLA" / SCRIPT, "--config_yaml", home / "config.yaml", *options]
    return RealRun(home, command, native.environment(checkout))


def weights(run: RealRun) -> torch.Tensor:
    """All of the final model's, one after the other."""
    state = torch.load(run.home / "runs" / "run" / "final_model" / "pytorch_model.pt", weights_only=True)
    return torch.cat([value.double().flatten() for value in state.values()])


def saved(run: RealRun) -> dict[Path, int]:
    """The checkpoints in place, by step."""
    found = {path: int(path.name.split("_")[1]) for path in (run.home / "runs" / "run" / "checkpoints").glob("steps_*")}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def rates(run: RealRun) -> dict[int, float]:
    """The learning rate that wandb has of each step; of a killed run it has not written the last seconds."""
    rows = Reader(run.home / "runs" / "run", ["wandb/**/run-*.wandb"], say=pytest.fail).poll()
    return {row.step: row.values["learning_rate"] for row in rows}


@pytest.fixture(scope="module")
def uninterrupted(grafted: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    run = supervised(tmp_path_factory.mktemp("uninterrupted"), grafted, materials)
    assert run.run() == 0, run.said
    return run


def test_killed_twice_and_a_checkpoint_cut_short(
    grafted: Path, materials: Path, uninterrupted: RealRun, tmp_path: Path
) -> None:
    run, draw = supervised(tmp_path, grafted, materials), random.Random(20261122)
    run.start()
    run.kill_at(draw.randint(EVERY + 1, 2 * EVERY + 2), STEP, SCRIPT, draw)
    run.kill_at(draw.randint(3 * EVERY + 1, 4 * EVERY + 2), STEP, SCRIPT, draw, held=True)
    kept = [*saved(run)]
    with kept[-1].open("r+b") as file:
        file.truncate(kept[-1].stat().st_size // 2)
    run.go_on()
    assert run.end() == 0, run.said
    assert run.remedies == ["killed/resume"] * 2, run.said
    assert run.begun[2] == kept[-2].name
    assert (kept[-1].parent / f"damaged-{kept[-1].name}").is_file()
    steps = [int(step) for step in re.findall(STEP, run.log)]
    assert {*steps} == {*range(1, STEPS + 1)}
    assert len(steps) - STEPS <= 3 * EVERY
    assert [*saved(run).values()] == [*saved(uninterrupted).values()] == [*range(EVERY, STEPS + 1, EVERY)]
    # Until the first kill it is the same training; after it weights, step and place in the schedule are.
    first = run.begun[1]
    assert first is not None
    one, other = (each.home / "runs" / "run" / "checkpoints" / first for each in (run, uninterrupted))
    assert one.read_bytes() == other.read_bytes()
    assert STEPS in rates(run)
    assert rates(run).items() <= rates(uninterrupted).items()
    apart = float((weights(run) - weights(uninterrupted)).norm() / weights(uninterrupted).norm())
    print(f"relative distance of the weights: {apart:.3g}")
    assert 0.0 < apart < 0.1
