"""LIBERO's demonstrations without LIBERO: what is read from HDF5 and refused, what a row holds, what is kept."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
h5py = pytest.importorskip("h5py")
pq = pytest.importorskip("pyarrow.parquet")

from PIL import Image  # noqa: E402

from runners import lerobot  # noqa: E402
from runners.libero_record import main  # noqa: E402
from runners.libero_world import dataset, record  # noqa: E402
from runners.libero_world.camera import intrinsics  # noqa: E402
from runners.libero_world.demonstrations import (  # noqa: E402
    check_robot,
    files_of,
    in_data,
    names_of,
    no_op,
    read,
)
from runners.libero_world.messages import Observation  # noqa: E402
from runners.libero_world.task import GROWS  # noqa: E402
from runners.places import Refused  # noqa: E402

CONTROLLER = {"type": "OSC_POSE", "control_delta": True, "input_max": 1, "input_min": -1}
CONTROLLER |= {"output_max": [0.05] * 3 + [0.5] * 3, "output_min": [-0.05] * 3 + [-0.5] * 3, "kp": 150}
SCENE = """<mujoco><worldbody><body name="table"><body name="stove_main" pos="0.1 -0.2 0.9"/>
<body name="rack_main" pos="1 2 3" quat="0 0 0 1"/></body></worldbody></mujoco>"""
TASKS = {0: "open_the_lid", 1: "close_the_lid"}
STILL = [0.0] * 6


def written(place: Path, task: str = "open_the_lid", demos: int = 2, **env: Any) -> Path:
    """A file in upstream's layout; the demonstrations differ in their first number."""
    place.parent.mkdir(parents=True, exist_ok=True)
    kwargs = {"robots": ["Panda"], "controller_configs": CONTROLLER, "control_freq": 20, **env}
    with h5py.File(place, "w") as file:
        group = file.create_group("data")
        group.attrs["bddl_file_name"] = f"chiliocosm/bddl_files/libero_goal/{task}.bddl"
        group.attrs["env_args"] = json.dumps({"env_kwargs": kwargs})
        for number in range(demos):
            demo = group.create_group(f"demo_{number}")
            demo.attrs["model_file"] = SCENE
            demo.create_dataset("states", data=np.full((3, 5), float(number)))
            demo.create_dataset("actions", data=np.array([[*STILL, -1.0], [0.5, *STILL[1:], -1.0], [*STILL, 1.0]]))
    return place


def test_demonstrations_are_read_in_their_order(tmp_path: Path) -> None:
    file = written(tmp_path / "a_demo.hdf5", demos=11)
    assert names_of(file) == [f"demo_{number}" for number in range(11)]
    demo = read(file, "demo_10")
    assert demo.states.dtype == demo.actions.dtype == np.float64
    assert demo.states[0].tolist() == [10.0] * 5
    assert demo.fixtures(["stove_main", "rack_main", "table"]) == {
        "stove_main": ([0.1, -0.2, 0.9], [1, 0, 0, 0]),
        "rack_main": ([1, 2, 3], [0, 0, 0, 1]),
        "table": ([0, 0, 0], [1, 0, 0, 0]),
    }
    with pytest.raises(Refused, match="its scene has no oven_main"):
        demo.fixtures(["stove_main", "oven_main"])


def test_files_are_found_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    one, two = written(tmp_path / "x.hdf5"), written(tmp_path / "y.hdf5", "close_the_lid")
    assert files_of([tmp_path], "libero_goal", TASKS) == {0: one, 1: two}
    assert files_of([two, one], "libero_goal", TASKS) == {0: one, 1: two}
    with pytest.raises(Refused, match=r"tasks 1 \(first 'close_the_lid'\)"):
        files_of([one], "libero_goal", TASKS)
    with pytest.raises(Refused, match="'close_the_lid', which is not among those asked for of libero_goal"):
        files_of([two], "libero_goal", {0: "open_the_lid"})
    with pytest.raises(Refused, match="are both of task 0"):
        files_of([one, written(tmp_path / "z" / "x.hdf5")], "libero_goal", TASKS)
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused, match=r"holds no \*\.hdf5"):
        files_of([tmp_path / "none"], "libero_goal", TASKS)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"robots": "Sawyer"}, r"the robot \['Sawyer'\]"),
        ({"control_freq": 10}, "at 10 Hz"),
        ({"controller_configs": {**CONTROLLER, "type": "JOINT_POSITION"}}, "type is JOINT_POSITION"),
        ({"controller_configs": {**CONTROLLER, "output_max": 0.1}}, "output_max is 0.1"),
        ({"controller_configs": None}, "type is None"),
    ],
)
def test_another_robot_or_controller_is_refused(env: dict[str, Any], says: str, tmp_path: Path) -> None:
    check_robot(written(tmp_path / "good.hdf5", robots="Panda"), CONTROLLER)
    with pytest.raises(Refused, match=says):
        check_robot(written(tmp_path / "bad.hdf5", **env), CONTROLLER)


def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path) -> None:
    file = written(tmp_path / "a.hdf5", demos=4)
    with h5py.File(file, "a") as handle:
        data = handle["data"]
        del data["demo_0/states"], data["demo_1/actions"], data["demo_3"].attrs["model_file"]
        data["demo_1"].create_dataset("actions", data=np.zeros((3, 4)))
        data["demo_2/actions"][1, 2] = np.nan
    with pytest.raises(Refused, match="demo_0 has no `states`"):
        read(file, "demo_0")
    with pytest.raises(Refused, match=r"demo_1: states and actions of shape \[3, 5\] and \[3, 4\]"):
        read(file, "demo_1")
    with pytest.raises(Refused, match="demo_2: states or actions hold numbers that are not finite"):
        read(file, "demo_2")
    with pytest.raises(Refused, match="`/data/demo_3` has no attribute 'model_file'"):
        read(file, "demo_3")
    (tmp_path / "cut.hdf5").write_bytes(file.read_bytes()[:200])
    with pytest.raises(Refused, match="no HDF5 file, or not a whole one"):
        names_of(tmp_path / "cut.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as handle:
        handle.create_group("obs")
    with pytest.raises(Refused, match="no group `data`"):
        names_of(tmp_path / "other.hdf5")
    with pytest.raises(Refused, match="no `data/demo_N`"):
        names_of(written(tmp_path / "none.hdf5", demos=0))


def test_no_ops_and_the_gripper_are_as_in_the_public_data() -> None:
    still, opened, moved = (np.array(each) for each in ([*STILL, -1.0], [*STILL, 1.0], [2e-4, *STILL[1:], -1.0]))
    assert [no_op(still, None), no_op(opened, None), no_op(moved, None)] == [True, True, False]
    assert [no_op(still, moved), no_op(opened, moved), no_op(moved, moved)] == [True, False, False]
    # -1 opens LIBERO's gripper and 1 closes it; in the data 1 is open, 0 closed.
    assert in_data(moved)[6] == 1.0
    assert in_data(opened)[6] == 0.0
    assert in_data(moved)[:6].tolist() == moved[:6].astype(np.float32).tolist()


class Scene:
    """What `LiberoTask` gives: here the step decides all; demonstration 1 does not end in success."""

    instruction, named = "open the lid", "lid_1"

    def __init__(self, suite: str, task: int, masks: bool) -> None:
        assert masks
        self.calls: list[Any] = []
        self.env = argparse.Namespace(env=argparse.Namespace(fixtures_dict={"stove": self}))
        self.root_body = "stove_main"

    def close(self) -> None:
        pass

    def settle(self, state: Any, seed: int, fixtures: Any) -> None:
        assert fixtures == {"stove_main": ([0.1, -0.2, 0.9], [1, 0, 0, 0])}
        self.demo, self.step_count, self.success = int(state[0]), 0, False

    def act(self, action: Any) -> None:
        self.step_count += 1
        self.success = self.demo != 1
        self.calls.append(action.tolist())

    def observe(self) -> Observation:
        return observed(10 * self.demo + self.step_count)

    def named_masks(self) -> dict[str, Any]:
        return {camera: depth > 1.0 for camera, depth in self.observe().depth.items()}

    def touching(self) -> bool:
        return self.step_count == 1


def observed(seed: int) -> Observation:
    rng, cameras = np.random.default_rng(seed), tuple(dataset.VIEWS)
    return Observation(
        0,
        "open the lid",
        rng.normal(size=8).astype(np.float32),
        {camera: rng.integers(0, 255, (4, 6, 3)).astype(np.uint8) for camera in cameras},
        {camera: rng.uniform(0, 3, (4, 6)).astype(np.float32) for camera in cameras},
        {camera: intrinsics(40, 4, 6) for camera in cameras},
        {camera: rng.normal(size=(4, 4)) for camera in cameras},
    )


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Of a run without the simulator, over three demonstrations of each of two tasks."""
    for task in TASKS.values():
        written(tmp_path / "demos" / f"{task}_demo.hdf5", task, demos=3)
    monkeypatch.setattr(record, "LiberoTask", Scene)
    monkeypatch.setattr(record, "tasks_of", lambda options: TASKS)
    monkeypatch.setattr(record, "controller", lambda: CONTROLLER)
    (tmp_path / "work").mkdir()
    given = {"demos": [tmp_path / "demos"], "suite": "libero_goal", "out": tmp_path / "out", "limit": None}
    (tmp_path / "out").mkdir()
    return argparse.Namespace(**given, keep_failures=False)


def opened(cell: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_a_row_is_what_a_controller_sees_and_the_action_that_follows(
    options: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.record(options, tmp_path / "work", 5) == 0
    said = capsys.readouterr().out
    assert "    libero_goal: demonstration 6 of 6 (100 %), success 66.7 %, ended after 0:" in said
    assert "4 of 6 demonstrations, 8 steps; 6 actions that move nothing were left out" in said
    assert "2 replays did not end in success, and were dropped: task 0 demo_1, task 1 demo_1" in said
    folder = dataset.folder_of(options.out, "libero_goal")
    assert folder.name == "libero_goal_no_noops_1.0.0_lerobot"
    begin = 0
    for episode, demo in enumerate((0, 2, 0, 2)):
        table = pq.read_table(folder / lerobot.data_file(episode)).to_pydict()
        assert table["index"] == [begin, begin + 1]
        begin += 2
        assert table["frame_index"] == [0, 1]
        assert np.diff(table["timestamp"]).tolist() == pytest.approx([1 / 20])
        # The first action moves nothing, the last only closes the gripper.
        assert table["action"] == [[0.5, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]]
        assert table["observation.contact"] == [False, True]
        for step in range(2):
            seen = observed(10 * demo + step)
            assert table["observation.state"][step] == seen.state.tolist()
            for camera, (view, column) in dataset.VIEWS.items():
                np.testing.assert_array_equal(opened(table[f"observation.images.{column}"][step]), seen.images[camera])
                depth = opened(table[f"observation.depth.{view}"][step]) / 1000.0
                assert np.abs(depth - seen.depth[camera]).max() <= 0.000501
                mask = opened(table[f"observation.named_mask.{view}"][step])
                np.testing.assert_array_equal(mask, 255 * (seen.depth[camera] > 1.0))
                for key in ("intrinsics", "camera_pose"):
                    wanted = getattr(seen, key)[camera].ravel().astype(np.float32)
                    assert table[f"observation.{key}.{view}"][step] == wanted.tolist()


def test_failures_can_be_kept_and_are_marked(options: argparse.Namespace, tmp_path: Path) -> None:
    options.keep_failures = True
    assert record.record(options, tmp_path / "work", 0) == 0
    meta = dataset.folder_of(options.out, "libero_goal") / "meta"
    episodes = [json.loads(line) for line in (meta / "episodes.jsonl").read_text().splitlines()]
    assert [row["success"] for row in episodes] == [True, False, True] * 2
    assert [row["task"] for row in episodes] == [0, 0, 0, 1, 1, 1]
    assert json.loads((meta / "info.json").read_text())["total_frames"] == 12


def test_without_a_success_there_is_no_data_set(
    options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scene, "act", lambda scene, action: None)
    assert record.record(options, tmp_path / "work", 0) == 1
    assert not any(options.out.iterdir())


class Stopped(Exception):
    pass


WRITES = 16
"""Of a run over two tasks: 4 episodes, 6 demonstrations told of, 6 files of meta."""


@pytest.mark.parametrize("calls", range(1, WRITES + 1))
def test_a_run_that_was_stopped_anywhere_goes_on(
    calls: int, options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = calls

    def stopping(real: Any) -> Any:
        def counted(*given: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                raise Stopped
            return real(*given, **more)

        return counted

    with monkeypatch.context() as patched:
        patched.setattr(record, "write_table", stopping(record.write_table))
        patched.setattr(lerobot, "write_lines", stopping(lerobot.write_lines))
        with pytest.raises(Stopped):
            record.record(options, tmp_path / "work", 0)
    assert not any(options.out.iterdir())
    # What a kill leaves of the file that was being written.
    number = sum(row["episode"] is not None for row in record.known(tmp_path / "work"))
    place = tmp_path / "work" / "set" / lerobot.data_file(number)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name(place.name + ".part").write_bytes(b"half of it")
    assert record.record(options, tmp_path / "work", 0) == 0
    resumed = dataset.folder_of(options.out, "libero_goal")
    options.out = tmp_path / "whole"
    options.out.mkdir()
    (tmp_path / "other").mkdir()
    assert record.record(options, tmp_path / "other", 0) == 0
    whole = dataset.folder_of(options.out, "libero_goal")
    found, wanted = (
        {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (resumed, whole)
    )
    assert found.keys() == wanted.keys()
    assert len(wanted) == 4 + 6
    assert found == wanted


def test_settings_and_foreign_data_sets_are_told_apart(options: argparse.Namespace, tmp_path: Path) -> None:
    assert record.record(options, tmp_path / "work", 0) == 0
    folder = dataset.folder_of(options.out, "libero_goal")
    before = (folder / "meta" / "recording.json").read_bytes()
    assert record.record(options, tmp_path / "work", 0) == 0
    shutil.rmtree(folder)
    # It is recorded anew, not taken for done.
    assert record.record(options, tmp_path / "work", 0) == 0
    assert (folder / "meta" / "recording.json").read_bytes() == before
    assert len(list(folder.rglob("*.parquet"))) == 4
    options.limit = 1
    with pytest.raises(Refused, match="was not recorded with these settings: choose another --out"):
        record.record(options, tmp_path / "work", 0)
    options.out = tmp_path / "elsewhere"
    with pytest.raises(Refused, match=r"holds episodes of other settings \(limit\): choose another --out"):
        record.record(options, tmp_path / "work", 0)
    assert (folder / "meta" / "recording.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--demos", "nowhere"], "nowhere is not there"),
        (["--demos", __file__, "--limit", "0"], "--limit is 0"),
        (["--demos", __file__, "--libero", "no-checkout"], "no-checkout is no LIBERO"),
    ],
)
def test_options_that_cannot_be_are_refused(words: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("mujoco")
    assert main(["--suite", "libero_goal", "--out", str(tmp_path), *words]) == 2
    assert says in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--suite", "libero_gaol", "--out", str(tmp_path), "--demos", __file__])
    assert "choose from" in capsys.readouterr().err


def test_nothing_is_replayed_where_the_data_set_has_no_room(
    options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in (tmp_path / "demos").iterdir())
    room = argparse.Namespace(free=GROWS * size - 3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    with pytest.raises(Refused, match=r"the data set needs about .* with --data-root"):
        record.record(options, tmp_path / "work", 0)
    assert not (tmp_path / "work" / "progress.jsonl").exists()
    # One of each file's three demonstrations has a third of its size.
    room.free, options.limit = GROWS * size // 3 + 1, 1
    assert record.record(options, tmp_path / "work", 0) == 0


def test_the_data_set_lies_where_data_sets_lie_and_not_below_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setenv("GRAFT_PLACES", os.devnull)
    monkeypatch.delenv("GRAFT_DATA_ROOT", raising=False)
    demos = tmp_path / "big.hdf5"
    with demos.open("wb") as file:
        file.truncate(1 << 30)
    given = ["--suite", "libero_goal", "--demos", str(demos)]
    assert main(given) == 2
    assert "--data-root or GRAFT_DATA_ROOT" in capsys.readouterr().err
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    monkeypatch.setenv("GRAFT_DATA_ROOT", str(tmp_path / "repository" / "data"))
    assert main(given) == 2
    assert "about 4.0 GiB would be written" in capsys.readouterr().err
    assert not (tmp_path / "repository" / "data").exists()
