"""Demonstrations: what is recorded plays back, and what is written can be read as upstream's loader reads it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("mujoco")
pq = pytest.importorskip("pyarrow.parquet")

from PIL import Image  # noqa: E402

from runners.reach_world import Disturbances, ReachWorld  # noqa: E402
from runners.reach_world.camera import FRONT, WRIST  # noqa: E402
from runners.reach_world.dataset import write_dataset  # noqa: E402
from runners.reach_world.layout import COLOURS  # noqa: E402
from runners.reach_world.record import examples_of, record  # noqa: E402

MOVED = Disturbances(move_step=5)


def test_recorded_chunks_replay_to_the_same_states() -> None:
    (demonstration,) = record([4], MOVED)
    examples = examples_of([demonstration], horizon=8, future=[4])
    world = ReachWorld(4, MOVED)
    for now in range(0, len(examples), 4):
        np.testing.assert_array_equal(world.observe().state, examples[now]["state"][0])
        np.testing.assert_array_equal(world.observe().frames["front"].depth, examples[now]["depth"][0])
        for action in examples[now]["action"][:4]:
            if not world.done:
                world.step(action)
        if examples[now]["valid_tk"]:
            np.testing.assert_array_equal(world.observe().state, examples[now]["state_tk"][0])
    assert world.success


def test_examples_shift_by_their_offsets_and_mark_the_episodes_ends() -> None:
    demonstrations = record([1, 2])
    horizon = 6
    examples = examples_of(demonstrations, horizon, range(1, horizon + 1), past=[2, 3])
    assert len(examples) == sum(len(d.actions) for d in demonstrations)
    assert {example["offset_tk"] for example in examples} == set(range(1, horizon + 1))
    assert {example["offset_tp"] for example in examples} == {2, 3}
    rows = iter(examples)
    for demonstration in demonstrations:
        steps = len(demonstration.actions)
        for now in range(steps):
            example = next(rows)
            check_frame(example, "", demonstration.observations[now])
            check_chunk(example["action"], demonstration.actions, now)
            for suffix, step in (("_tk", now + example["offset_tk"]), ("_tp", now - example["offset_tp"])):
                assert example[f"valid{suffix}"] == float(0 <= step < steps)
                check_frame(example, suffix, demonstration.observations[min(max(step, 0), steps - 1)])
            check_chunk(example["action_tp"], demonstration.actions, max(now - example["offset_tp"], 0))
            there = demonstration.observations[min(now + example["offset_tk"], steps - 1)]
            assert example["contact"] == float(there.state[3] > 0)
    assert {example["contact"] for example in examples} == {0.0, 1.0}


def check_frame(example: dict, suffix: str, seen) -> None:
    frame = seen.frames["front"]
    np.testing.assert_array_equal(example[f"state{suffix}"], seen.state[None])
    np.testing.assert_array_equal(example[f"depth{suffix}"][0], frame.depth)
    np.testing.assert_array_equal(np.asarray(example[f"image{suffix}"][0]), frame.rgb)
    np.testing.assert_array_equal(example[f"intrinsics{suffix}"][0], frame.intrinsics.astype(np.float32))
    np.testing.assert_array_equal(example[f"camera_pose{suffix}"][0], seen.camera_pose["front"].astype(np.float32))
    assert example["lang"] == seen.instruction


def check_chunk(chunk, actions, first: int) -> None:
    for later in range(len(chunk)):
        wanted = actions[first + later] if first + later < len(actions) else np.zeros(3)
        np.testing.assert_array_equal(chunk[later], wanted)


def test_noise_changes_the_path_but_the_expert_is_what_is_recorded() -> None:
    (calm,), (noisy,) = record([6]), record([6], noise=0.3)
    np.testing.assert_array_equal(calm.actions[0], noisy.actions[0])
    assert not np.array_equal(calm.observations[1].state, noisy.observations[1].state)
    assert np.abs(noisy.actions).max() <= 1


def test_a_written_data_set_holds_what_was_recorded(tmp_path: Path) -> None:
    demonstrations = record([1, 2, 3], cameras=(FRONT, WRIST))
    folder = write_dataset(tmp_path / "reach", demonstrations)
    info = json.loads((folder / "meta/info.json").read_text())
    episodes = [json.loads(line) for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]
    tasks = {row["task_index"]: row["task"] for row in map(json.loads, (folder / "meta/tasks.jsonl").open())}
    modality = json.loads((folder / "meta/modality.json").read_text())
    assert info["total_frames"] == sum(row["length"] for row in episodes)
    begin, shown = 0, {"front": 0, "wrist": 0}
    for row, demonstration in zip(episodes, demonstrations, strict=True):
        place = info["data_path"].format(episode_chunk=0, episode_index=row["episode_index"])
        table = pq.read_table(folder / place).to_pydict()
        assert row["length"] == len(table["index"]) == len(demonstration.actions)
        assert table["index"] == list(range(begin, begin + row["length"]))
        begin += row["length"]
        assert tasks[table["task_index"][0]] == demonstration.observations[0].instruction
        np.testing.assert_array_equal(np.float32(table["action"]), demonstration.actions)
        for name, cell in modality["state"].items():
            column = np.float32(table["observation.state"])[:, cell["start"] : cell["end"]]
            place = ["x", "y", "z", "touch"].index(name)
            np.testing.assert_array_equal(column[:, 0], [one.state[place] for one in demonstration.observations])
        for camera in ("front", "wrist"):
            image_key = modality["video"][camera]["original_key"]
            for now, one in enumerate(demonstration.observations):
                frame = one.frames[camera]
                np.testing.assert_array_equal(opened(table[image_key][now]), frame.rgb)
                stored = opened(table[f"observation.depth.{camera}"][now])
                assert stored.dtype in (np.uint16, np.int32)
                assert np.abs(stored / 1000.0 - frame.depth).max() <= 0.000501
                pose = np.reshape(table[f"observation.camera_pose.{camera}"][now], (4, 4))
                np.testing.assert_allclose(pose, one.camera_pose[camera], atol=1e-6)
                intrinsics = np.reshape(table[f"observation.intrinsics.{camera}"][now], (3, 3))
                np.testing.assert_allclose(intrinsics, frame.intrinsics, rtol=1e-6)
                named = opened(table[f"observation.named_mask.{camera}"][now])
                np.testing.assert_array_equal(named, 255 * coloured(frame.rgb, one.instruction))
                shown[camera] += int((named > 0).sum())
        touches = [bool(one.state[3] > 0) for one in demonstration.observations]
        assert table["observation.contact"] == touches
        assert any(touches)
    assert min(shown.values()) > 100


def coloured(picture: np.ndarray, instruction: str) -> np.ndarray:
    """Where a picture has the colour that "touch the red cube" names: light makes it no other, only darker."""
    colour = np.array(COLOURS[instruction.split()[2]])
    along = picture @ colour / np.linalg.norm(colour)
    return along > 0.998 * np.linalg.norm(picture, axis=-1)


def opened(cell: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_upstreams_padding_is_declared(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "reach", record([1]))
    modality = json.loads((folder / "meta/modality.json").read_text())
    assert {cell["absolute"] for cell in modality["action"].values()} == {False}
    assert modality["annotation"]["human.action.task_description"]["original_key"] == "task_index"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    demonstrations = record([1])
    write_dataset(tmp_path / "there", demonstrations)
    with pytest.raises(FileExistsError, match="holds a data set"):
        write_dataset(tmp_path / "there", demonstrations)
    with pytest.raises(ValueError, match="no demonstrations"):
        write_dataset(tmp_path / "none", [])
    with pytest.raises(ValueError, match="seed 2 has the cameras"):
        write_dataset(tmp_path / "mixed", [*demonstrations, *record([2], cameras=(WRIST,))])
    with pytest.raises(ValueError, match="horizon=8, future=\\[9\\]"):
        examples_of(demonstrations, 8, [9])
    with pytest.raises(ValueError, match="noise=-1"):
        record([1], noise=-1)
    with pytest.raises(ValueError, match="none of 1 episodes"):
        record([1], limit=2)
