"""Demonstrations of LIBERO replayed in the simulator, and starVLA training on what was recorded.

No demonstration of LIBERO's own is at hand: three are played here and written in its layout, two of which succeed.
The pictures are taken with plain shapes in the place of assets that a mirror lacks.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import native
import numpy as np
import pandas
import pytest
from PIL import Image

from runners import table
from runners.libero_assets import build

SUITE, TASK, NAME = "libero_goal", 8, "libero_goal_no_noops_1.0.0_lerobot"
VIEWS = {"agentview": ("primary_image", "image"), "robot0_eye_in_hand": ("wrist_image", "wrist_image")}
HALF_MILLIMETRE = 0.00051
BOWL = 0.09
"""Metres from the bowl's origin to its farthest point, and a little."""


def simulated(command: Sequence[object], drawing: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    # Empty, as the tests of starVLA have it, it makes robosuite fail.
    around = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [str(native.SIMULATOR), *map(str, command)],
        env={**around, **drawing, "OMP_NUM_THREADS": "1", **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def played(drawing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tests/starvla_real/libero_demos.py."""
    folder = tmp_path_factory.mktemp("demos")
    build(native.LIBERO, folder / "package")
    command = [native.HERE / "libero_demos.py", folder / "package", folder, SUITE, TASK]
    ran = simulated(command, drawing, LIBERO_CONFIG_PATH=str(folder / "paths"))
    assert ran.returncode == 0, ran.stderr[-4000:]
    return folder


def recorded(
    played: Path,
    out: Path,
    drawing: dict[str, str],
    *options: str,
) -> subprocess.CompletedProcess[str]:
    given = ["--demos", played, "--suite", SUITE, "--out", out, "--asset-standins", *options]
    return simulated(table.command("libero-record", *given, python=native.SIMULATOR)[1:], drawing)


@pytest.fixture(scope="module")
def data(played: Path, drawing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data_root_dir` with the two demonstrations that succeed."""
    out = tmp_path_factory.mktemp("data")
    ran = recorded(played, out, drawing, "--tasks", str(TASK))
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "2 of 3 demonstrations, 12 steps; 6 actions that move nothing were left out" in ran.stdout
    assert "1 replays did not end in success, and were dropped: task 8 demo_1" in ran.stdout
    return out


def load(grafted: Path, folder: Path, root: Path) -> dict[str, Any]:
    """What tests/starvla_real/libero_loaded.py prints."""
    said = native.run(grafted, folder, native.HERE / "libero_loaded.py", root).splitlines()
    return json.loads(next(line for line in said if line.startswith('{"samples"')))


@pytest.fixture(scope="module")
def loaded(data: Path, grafted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return load(grafted, tmp_path_factory.mktemp("loaded"), data)


def opened(cell: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


@pytest.mark.parametrize(("episode", "demo"), [(0, 0), (1, 2)])
def test_what_is_recorded_is_what_a_controller_saw(data: Path, played: Path, episode: int, demo: int) -> None:
    table = pandas.read_parquet(data / NAME / f"data/chunk-000/episode_{episode:06d}.parquet")
    seen = np.load(played / f"seen_{demo}.npz")
    assert len(table) == len(seen["state"]) == 6
    # The same physics from the same state, with the fixtures where that demonstration had them.
    np.testing.assert_allclose(np.stack(table["observation.state"]), seen["state"], atol=1e-6)
    assert [action[6] for action in table["action"]] == [1, 1, 0, 0, 1, 1]
    assert np.stack(table["action"])[0][:6].tolist() == pytest.approx([1.0, 0.1, -0.8, 0, 0, 0])
    assert table["observation.contact"].tolist() == [False] * 6
    assert seen["touching"].tolist() == [False, True]
    for camera, (view, column) in VIEWS.items():
        for step, row in table.iterrows():
            picture = opened(row[f"observation.images.{column}"]).astype(int)
            assert np.abs(picture - seen[f"images/{camera}"][step]).mean() < 0.2
            depth = opened(row[f"observation.depth.{view}"]) / 1000
            far = np.abs(depth - seen[f"depth/{camera}"][step]) > HALF_MILLIMETRE
            # An edge may fall to the other side where a fixture stands a millionth of a metre elsewhere.
            assert far.mean() < 1e-3, (camera, step)
            k = np.reshape(row[f"observation.intrinsics.{view}"], (3, 3))
            pose = np.reshape(row[f"observation.camera_pose.{view}"], (4, 4))
            np.testing.assert_allclose(k, seen[f"intrinsics/{camera}"][step], rtol=1e-6)
            np.testing.assert_allclose(pose, seen[f"camera_pose/{camera}"][step], atol=1e-6)
            on_object(opened(row[f"observation.named_mask.{view}"]) > 0, depth, k, pose, seen["place"][step])


def on_object(mask: np.ndarray, depth: np.ndarray, k: np.ndarray, pose: np.ndarray, place: np.ndarray) -> None:
    """Asserts that a mask's pixels, lifted to the gripper's frame, lie on an object of the size of a bowl."""
    v, u = np.nonzero(mask)
    assert len(v) > 200
    z = depth[v, u]
    points = pose[:3] @ np.stack([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z, np.ones_like(z)])
    away = np.linalg.norm(points.T - place, axis=1)
    assert np.quantile(away, 0.99) < BOWL
    # The rim is seen on both sides of the middle.
    assert np.linalg.norm(points.mean(axis=1) - place) < BOWL / 2


def test_meta_is_what_upstreams_loader_would_make_of_it(
    data: Path, loaded: dict[str, Any], grafted: Path, tmp_path: Path
) -> None:
    meta = data / NAME / "meta"
    upstreams = json.loads((grafted / "examples/LIBERO/train_files/modality.json").read_text())
    assert json.loads((meta / "modality.json").read_text()) == upstreams
    facts = json.loads((meta / "recording.json").read_text())
    assert facts["settings"]["asset_standins"] > 0
    assert [row["episode"] for row in facts["demonstrations"]] == [0, None, 1]
    # Without its statistics upstream computes them, of every column.
    shutil.copytree(data / NAME, tmp_path / NAME)
    (tmp_path / NAME / "meta" / "stats_gr00t.json").unlink()
    assert load(grafted, tmp_path, tmp_path) == loaded
    told, computed = (json.loads((root / NAME / "meta/stats_gr00t.json").read_text()) for root in (data, tmp_path))
    # It was read, and not computed anew: that would be of all columns.
    assert set(told["statistics"]) == {"observation.state", "action"} < set(computed["statistics"])
    assert [told[key] for key in ("__format_version", "__cache_config")] == [
        computed[key] for key in ("__format_version", "__cache_config")
    ]
    for column, of in told["statistics"].items():
        for kind, values in of.items():
            np.testing.assert_allclose(
                values, computed["statistics"][column][kind], atol=1e-6, err_msg=f"{column} {kind}"
            )


def test_the_loader_gives_depth_pose_and_mask_of_both_views(loaded: dict[str, Any]) -> None:
    assert loaded["samples"] == 12
    assert loaded["lang"] == ["put the bowl on the plate"]
    shapes = {"depth": [2, 256, 256], "intrinsics": [2, 3, 3], "camera_pose": [2, 4, 4], "named_mask": [2, 256, 256]}
    for key, shape in shapes.items():
        assert loaded["shapes"][key] == loaded["shapes"][f"{key}_tk"] == shape
    assert loaded["shapes"]["state"] == [1, 8]
    assert loaded["shapes"]["action"] == [8, 7]
    assert 0.3 < loaded["nearest"] < loaded["farthest"] < 10


def test_the_method_trains_on_it_with_grounding(data: Path, grafted: Path, materials: Path, tmp_path: Path) -> None:
    options = [
        f"--datasets.vla_data.data_root_dir={data}",
        f"--datasets.vla_data.data_mix={SUITE}_next",
        "--framework.action_model.state_dim=8",
        "--trainer.max_train_steps=1",
        "--framework.sagr.losses.w_ground=0.1",
    ]
    ran = native.train(grafted, tmp_path, materials, *native.ON, *options, framework=native.FRAMEWORK)
    (row,) = [row for row in ran.metrics() if "loss/ground" in row]
    assert 0 < row["loss/ground"] < 20


def test_a_run_goes_on_where_it_was_stopped(data: Path, played: Path, drawing: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "libero_goal.recording"
    shutil.copytree(data / work.name, work, symlinks=True)
    # As it is after a kill: one demonstration told, the file of the next there and not told.
    told = (work / "progress.jsonl").read_text().splitlines(keepends=True)
    (work / "progress.jsonl").write_text(told[0])
    place = work / "set" / "data" / "chunk-000"
    place.mkdir(parents=True)
    first = data / NAME / "data/chunk-000/episode_000000.parquet"
    shutil.copy(first, place)
    (place / "episode_000001.parquet").write_bytes(b"a part of one")
    ran = recorded(played, tmp_path, drawing, "--tasks", str(TASK))
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert [json.loads(line)["demo"] for line in ran.stdout.splitlines() if line.startswith("{")] == [
        "demo_1",
        "demo_2",
    ]
    native.same_bytes(data / NAME / "data", tmp_path / NAME / "data")
