"""A trained policy on the real LIBERO: where its cameras say that things are, and the whole comparison, played.

The simulation runs in the environment of .venvs/openvla, plain shapes standing in for assets that a mirror lacks.
Nothing here can succeed, and no success rate is asserted: the weights have seen one step of training.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import native
import numpy as np
import pytest
import torch

from runners import table
from runners.libero_assets import build

SUITE, TASK = "libero_goal", 1
CENTIMETRE = 0.01
STATELESS = (
    "--datasets.vla_data.include_state=false",
    "--framework.action_model.state_dim=null",
    "--trainer.max_train_steps=1",
)
NO_FEEDBACK = "--framework.action_model.enable_causal_feedback_token=false"


@pytest.fixture(scope="module")
def seen(drawing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/starvla_real/libero_geometry.py found."""
    folder = tmp_path_factory.mktemp("libero")
    build(native.LIBERO, folder / "package")
    command = [native.HERE / "libero_geometry.py", folder / "package", SUITE, TASK]
    ran = native.simulated(command, drawing, LIBERO_CONFIG_PATH=str(folder / "paths"))
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_depth_intrinsics_and_pose_put_the_object_where_the_simulator_has_it(seen: dict[str, Any]) -> None:
    for when in ("before", "after"):
        assert set(seen[when]) == {"agentview", "robot0_eye_in_hand"}
        for camera, found in seen[when].items():
            assert found["named"], (when, camera)
            assert np.linalg.norm(np.subtract(found["lifted"], found["met"])) < CENTIMETRE, (when, camera)
            assert np.linalg.norm(np.subtract(found["lifted"], found["origin"])) < 0.1, (when, camera)


def test_the_moved_object_has_moved_as_far_in_both_cameras(seen: dict[str, Any]) -> None:
    moved = np.array(seen["moved"])
    assert 0.04 <= np.linalg.norm(moved[:2]) <= 0.08
    for camera, after in seen["after"].items():
        before = seen["before"][camera]
        in_world = np.add(after["lifted"], after["tip"]) - np.add(before["lifted"], before["tip"])
        assert np.linalg.norm(in_world - moved) < CENTIMETRE, camera


def checkpoint(checkout: Path, folder: Path, materials: Path, *options: str, framework: str = native.FRAMEWORK) -> Path:
    """Weights of one training step whose run folder names LIBERO's data, so that its actions are un-normalised."""
    run = native.train(checkout, folder, materials, *options, *STATELESS, framework=framework).output
    settings = run / "config.yaml"
    text = settings.read_text()
    mixture = next(line for line in text.splitlines() if line.strip().startswith("data_mix:"))
    settings.write_text(text.replace(mixture, f"{mixture.partition(':')[0]}: libero_goal"))
    statistics = run / "dataset_statistics.json"
    known = json.loads(statistics.read_text())
    for found in known.values():
        # LIBERO's state has eight numbers, that of the tiny set seven.
        found["state"] = {name: [*values, values[-1]] for name, values in found["state"].items()}
    statistics.write_text(json.dumps(known))
    weights = run / "final_model" / "pytorch_model.pt"
    told = torch.load(weights, weights_only=True)
    # Until it is trained in earnest the predictor expects next to no change, and guides next to nothing.
    generator = torch.Generator().manual_seed(0)
    for last in [name for name in told if name.startswith("world_predictor.change.")][-2:]:
        told[last] = 0.5 * torch.randn(told[last].shape, generator=generator)
    torch.save(told, weights)
    return weights


@pytest.fixture(scope="module")
def weights(grafted: Path, materials: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "baseline": checkpoint(grafted, folder / "baseline", materials, framework="QwenPI"),
        "anchor": checkpoint(grafted, folder / "anchor", materials, *native.ON, NO_FEEDBACK),
        "feedback": checkpoint(grafted, folder / "feedback", materials, *native.ON),
    }


def compared(weights: dict[str, Path], work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    given = [word for name, file in weights.items() for word in (f"--{name}", str(file))]
    given += ["--suite", SUITE, "--tasks", str(TASK), "--episodes", "1", "--limit", "6", "--asset-standins", *options]
    return subprocess.run(
        table.command("starvla-libero", "--work", work, *given, python=native.SIMULATOR),
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_every_arm_plays_in_both_worlds_and_a_report_is_written(
    weights: dict[str, Path], drawing: dict[str, str], tmp_path: Path
) -> None:
    options = ("--execute-steps", "3", "--move-step", "4")
    ran = compared(weights, tmp_path / "work", *options)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    found = json.loads((tmp_path / "work" / "results.json").read_text())
    assert list(found["episodes"]) == ["baseline", "anchor", "guidance", "replanning", "feedback", "replanning_alone"]
    for worlds in found["episodes"].values():
        assert {world: (of["0"]["episodes"], of["0"]["errors"]) for world, of in worlds.items()} == {
            "calm": (1, 0),
            "moved": (1, 0),
        }
    assert found["settings"]["asset_standins"] > 0
    logs = {
        (arm, world): json.loads((tmp_path / f"work/episodes/{arm}/seed0/{world}-task{TASK}.jsonl").read_text())
        for arm in found["episodes"]
        for world in ("calm", "moved")
    }
    for (arm, world), episode in logs.items():
        assert len(episode["trace"]) == 6
        assert (episode["moved_at"] == 4) == (world == "moved")
        asked = [row["step"] for row in episode["trace"] if row.get("notes")]
        assert bool(asked) == (arm in ("replanning", "feedback", "replanning_alone"))
        actions = np.array([row["action"] for row in episode["trace"]])
        assert set(actions[:, 6]) <= {-1.0, 1.0}
        assert np.abs(actions).max() <= 1.0
    # One episode begins alike in both worlds: the chunk sampled before the move is the same.
    for arm in ("baseline", "guidance"):
        calm, moved = ([row["action"] for row in logs[arm, world]["trace"]] for world in ("calm", "moved"))
        assert calm == moved
    # The same noise, weights and first observation: what guidance changes begins with the second chunk.
    first, second = ([row["action"] for row in logs[arm, "calm"]["trace"]] for arm in ("anchor", "guidance"))
    assert first[:3] == second[:3]
    assert np.abs(np.subtract(first[3:], second[3:])).max() > 1e-3
    page = (tmp_path / "work" / "report.html").read_text()
    assert "Plain shapes stood in for" in page
    again = compared(weights, tmp_path / "work", *options)
    assert again.returncode == 0, again.stderr[-4000:]
    assert "==>" not in again.stdout
    other = compared(weights, tmp_path / "work", "--execute-steps", "2")
    assert other.returncode == 2
    assert "episodes of other settings (execute_steps, move_step)" in other.stderr


def test_a_policy_that_does_not_fit_libero_is_refused_by_name(
    baseline: native.Recorded, drawing: dict[str, str], tmp_path: Path
) -> None:
    own = {"baseline": baseline.output / "final_model" / "pytorch_model.pt"}
    ran = compared(own, tmp_path / "work")
    assert ran.returncode == 1
    assert "baseline, seed 0" in ran.stderr
    assert "trained on a state of 7 numbers, LIBERO's has 8" in ran.stderr
    assert not (tmp_path / "work" / "report.html").exists()
