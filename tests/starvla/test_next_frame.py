"""Samples with the next frame and the one before, on the stand-in's LeRobot reader and the real one.

What has to come out is read from the parquet files here, column by column, without upstream or the overlay.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.standins.starvla_project import REPOSITORY, STANDIN
from tests.standins.used import real as used_real

CHECKOUT = REPOSITORY / "upstreams" / "starVLA"
TREES = [
    pytest.param(STANDIN, id="stand-in"),
    pytest.param(CHECKOUT, id="real", marks=pytest.mark.upstream_heavy),
]
OURS = ("starVLA", "deployment", "toy_world", "wandb", "_data_registry_", "_toy_config")


def forget() -> None:
    """Takes the modules of either tree out: both have the same names."""
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]


@pytest.fixture(scope="module", params=TREES)
def lerobot(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """``LeRobotSingleDataset`` and the toy robot's data configuration, of one tree."""
    path = list(sys.path)
    forget()
    sys.path[:0] = [str(request.param)]
    try:
        datasets = importlib.import_module("starVLA.dataloader.gr00t_lerobot.datasets")
        file = STANDIN / "examples" / "Toy" / "train_files" / "data_registry" / "data_config.py"
        spec = importlib.util.spec_from_file_location("_toy_config", file)
        config = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(config)
        if request.param is CHECKOUT:
            used_real("starVLA", f"its LeRobot data sets, from {CHECKOUT}")
        yield SimpleNamespace(
            single=datasets.LeRobotSingleDataset, mixture=datasets.LeRobotMixtureDataset, config=config
        )
    except ModuleNotFoundError as error:
        if request.param is STANDIN:
            raise
        pytest.skip(f"the real starVLA's data sets need {error.name}: run this in .venvs/starVLA")
    finally:
        sys.path[:] = path
        forget()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("data") / "toy")


def made(folder: Path, **options: Any) -> Path:
    path = list(sys.path)
    sys.path.append(str(STANDIN))
    try:
        return importlib.import_module("toy_world.write").write_dataset(folder, episodes=3, length=12, **options)
    finally:
        # Not `remove`, which takes the first: the stand-in may stand in front already.
        sys.path[:] = path


def data_set(lerobot: SimpleNamespace, folder: Path, **settings: Any) -> Any:
    from sagr.data.next_frame import with_next_frame

    config = with_next_frame(lerobot.config.ToyDataConfig(), lerobot.single)
    return config.make_dataset(
        dataset_name=folder.name,
        dataset_path=folder,
        modality_configs=config.modality_config(),
        transforms=config.transform(),
        embodiment_tag=config.embodiment_tag,
        data_cfg={"include_state": True, **settings},
    )


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_parquet(file) for file in sorted(folder.glob("data/*/*.parquet"))]


def picture(table: pd.DataFrame, step: int, size: tuple[int, int]) -> np.ndarray:
    cell = table["observation.images.primary"].iloc[step]
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])).resize(size))


def samples(dataset: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for trajectory, step in dataset.all_steps:
        yield (
            int(trajectory),
            int(step),
            dataset._pack_sample(dataset.transforms(dataset.get_step_data(trajectory, step))),
        )


@pytest.mark.parametrize("offset", [1, 5, 8])
def test_the_next_frame_is_the_right_one_and_masked_at_the_end(
    lerobot: SimpleNamespace, folder: Path, truth: list[pd.DataFrame], offset: int
) -> None:
    masked = 0
    for episode, step, sample in samples(data_set(lerobot, folder, future_offset=offset)):
        table = truth[episode]
        last = len(table) - 1
        assert sample["offset_tk"] == offset
        assert sample["valid_tk"] == (1.0 if step + offset <= last else 0.0)
        masked += sample["valid_tk"] == 0.0
        then = min(step + offset, last)
        for suffix, at in (("", step), ("_tk", then)):
            (seen,) = sample[f"image{suffix}"]
            assert np.array_equal(np.asarray(seen), picture(table, at, seen.size))
            state = np.asarray(table["observation.state"].iloc[at], np.float16)
            assert np.array_equal(sample[f"state{suffix}"], state[None])
        assert sample["contact"] == float(table["observation.contact"].iloc[then])
        assert "image_tp" not in sample
    assert masked == offset * len(truth)


def test_everything_else_is_as_upstream_packs_it(lerobot: SimpleNamespace, folder: Path) -> None:
    config = lerobot.config.ToyDataConfig()
    upstreams = lerobot.single(
        dataset_path=folder,
        modality_configs=config.modality_config(),
        transforms=config.transform(),
        embodiment_tag=config.embodiment_tag,
        data_cfg={"include_state": True},
    )
    ours = data_set(lerobot, folder, past_offset=3)
    assert len(ours) == len(upstreams) > 30
    for index in range(len(ours)):
        mine, theirs = ours[index], upstreams[index]
        assert mine["lang"] == theirs["lang"]
        assert [np.asarray(each).tolist() for each in mine["image"]] == [
            np.asarray(p).tolist() for p in theirs["image"]
        ]
        for key in ("action", "state"):
            assert mine[key].dtype == theirs[key].dtype
            assert np.array_equal(mine[key], theirs[key])


def test_depth_and_camera_come_from_their_columns(
    lerobot: SimpleNamespace, folder: Path, truth: list[pd.DataFrame]
) -> None:
    shown = 0
    for episode, step, sample in samples(data_set(lerobot, folder, future_offset=2, past_offset=2)):
        table = truth[episode]
        for suffix, at in (("", step), ("_tk", min(step + 2, len(table) - 1)), ("_tp", max(step - 2, 0))):
            cell = table["observation.depth.primary"].iloc[at]["bytes"]
            (depth,) = sample[f"depth{suffix}"]
            assert depth.dtype == np.float32
            np.testing.assert_allclose(depth, np.asarray(Image.open(io.BytesIO(cell))) / 1000.0, rtol=1e-6)
            assert sample[f"intrinsics{suffix}"][0].tolist() == [[32.0, 0.0, 15.5], [0.0, 32.0, 15.5], [0.0, 0.0, 1.0]]
            assert sample[f"camera_pose{suffix}"][0].shape == (4, 4)
            assert sample[f"camera_pose{suffix}"][0][2].tolist() == [0.0, 0.0, -1.0, 1.0]
            red, _, blue = np.moveaxis(picture(table, at, (32, 32)).astype(int), -1, 0)
            (named,) = sample[f"named_mask{suffix}"]
            assert named.dtype == bool
            assert np.array_equal(named, red - blue == 180 if "red" in sample["lang"] else blue - red == 180)
            shown += int(named.sum())
        assert 0.75 < depth.min() < depth.max() == 1.0
    assert shown > 0


def test_the_frame_before_comes_with_the_chunk_that_began_there(lerobot: SimpleNamespace, folder: Path) -> None:
    dataset = data_set(lerobot, folder, past_offset=[2, 4])
    by_step = {(episode, step): sample for episode, step, sample in samples(dataset)}
    offsets = set()
    for (episode, step), sample in by_step.items():
        offset = sample["offset_tp"]
        offsets.add(offset)
        assert sample["valid_tp"] == (1.0 if step >= offset else 0.0)
        before = by_step[episode, max(step - offset, 0)]
        assert np.array_equal(sample["action_tp"], before["action"])
        assert np.array_equal(sample["state_tp"], before["state"])
        assert np.array_equal(sample["depth_tp"][0], before["depth"][0])
    assert offsets == {2, 4}


def offsets(dataset: Any) -> list[tuple[int, int]]:
    return [(sample["offset_tk"], sample["offset_tp"]) for *_, sample in samples(dataset)]


def test_offsets_are_drawn_anew_at_each_reading_and_the_same_for_a_seed(lerobot: SimpleNamespace, folder: Path) -> None:
    def epochs(seed: int) -> list[list[tuple[int, int]]]:
        torch.manual_seed(seed)
        dataset = data_set(lerobot, folder, past_offset=[2, 5])
        state = torch.get_rng_state()
        read = [offsets(dataset) for _ in range(5)]
        assert torch.equal(torch.get_rng_state(), state)
        return read

    first = epochs(0)
    assert {tk for epoch in first for tk, _ in epoch} == set(range(1, 9))
    assert {tp for epoch in first for _, tp in epoch} == {2, 5}
    assert all(len(set(step)) > 1 for step in zip(*first, strict=True))
    assert epochs(0) == first
    assert epochs(1)[0] != first[0]


def test_workers_of_a_loader_draw_anew_in_each_epoch_and_the_same_for_a_seed(
    lerobot: SimpleNamespace, folder: Path
) -> None:
    def epochs(persistent: bool) -> list[list[int]]:
        torch.manual_seed(3)
        loader = torch.utils.data.DataLoader(
            data_set(lerobot, folder), 4, collate_fn=list, num_workers=2, persistent_workers=persistent
        )
        return [[sample["offset_tk"] for part in loader for sample in part] for _ in range(2)]

    for persistent in (False, True):
        first, second = epochs(persistent)
        assert len(first) > 30
        assert first != second
        assert epochs(persistent) == [first, second]


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_read_the_same(lerobot: SimpleNamespace, folder: Path, way: str) -> None:
    def offsets(context: str) -> list[int]:
        torch.manual_seed(3)
        dataset = data_set(lerobot, folder)
        loader = torch.utils.data.DataLoader(
            dataset, 4, collate_fn=list, num_workers=1, multiprocessing_context=context
        )
        return [sample["offset_tk"] for part in loader for sample in part]

    read = offsets(way)
    assert len(read) > 30
    assert read == offsets("fork")


def test_without_those_columns_there_are_none_of_those_keys(lerobot: SimpleNamespace, tmp_path: Path) -> None:
    sample = data_set(lerobot, made(tmp_path / "plain", geometry=False))[0]
    assert {"image_tk", "state_tk", "valid_tk", "offset_tk"} <= sample.keys()
    assert not [key for key in sample if key.startswith(("depth", "intrinsics", "camera_pose", "named", "contact"))]


def test_a_mixture_hands_the_samples_on(lerobot: SimpleNamespace, folder: Path) -> None:
    mixture = lerobot.mixture(
        [(data_set(lerobot, folder, future_offset=4), 1.0)], mode="train", data_cfg={"include_state": True}
    )
    assert all(mixture[index]["offset_tk"] == 4 for index in range(5))


@pytest.mark.parametrize(("key", "value"), [("future_offset", 0), ("future_offset", [2, 9]), ("past_offset", "4")])
def test_offsets_that_the_chunk_cannot_hold_are_refused(
    lerobot: SimpleNamespace, folder: Path, key: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=rf"datasets\.vla_data\.{key} is .*from 1 to 8"):
        data_set(lerobot, folder, **{key: value})


def spoiled(folder: Path, column: str, cell: Any) -> Path:
    """A copy of the data set with other cells in a column of its first episode."""
    file = folder / "data" / "chunk-000" / "episode_000000.parquet"
    table = pd.read_parquet(file)
    table[column] = [cell] * len(table)
    table.to_parquet(file)
    return folder


def eight_bits() -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        ("observation.depth.primary", {"bytes": eight_bits()}, "16 bits a pixel"),
        ("observation.depth.primary", {"bytes": None, "path": "x.png"}, "has no 'bytes'"),
        ("observation.depth.primary", [1.0, 2.0], r"depth is \[h, w\]"),
        ("observation.intrinsics.primary", [1.0] * 8, "has 8 numbers: 9"),
        ("observation.camera_pose.primary", [1.0] * 9, "has 9 numbers: 16"),
        ("observation.named_mask.primary", [1.0, 0.0], r"a mask is \[h, w\]"),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_before_the_first_step(
    lerobot: SimpleNamespace, tmp_path: Path, column: str, cell: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=rf"(?s)data set bad, episode 0: column {column}, step 0: .*{says}"):
        data_set(lerobot, spoiled(made(tmp_path / "bad"), column, cell))


def test_depth_may_be_nested_lists_of_metres(lerobot: SimpleNamespace, tmp_path: Path) -> None:
    depth = (np.arange(12, dtype=np.float32).reshape(3, 4) / 10).tolist()
    sample = data_set(lerobot, spoiled(made(tmp_path / "lists"), "observation.depth.primary", depth))[0]
    assert np.array_equal(sample["depth"][0], np.asarray(depth, np.float32))


def test_every_mixture_has_a_twin_but_those_with_a_factory_of_their_own(lerobot: SimpleNamespace) -> None:
    from sagr.data.next_frame import twins, with_next_frame

    class Own(lerobot.config.ToyDataConfig):
        def make_dataset(self, **options: Any) -> None:
            raise AssertionError

    configs = {"toy_robot": lerobot.config.ToyDataConfig(), "own": Own()}
    mixtures = {"toy": [("toy", 1.0, "toy_robot")], "both": [("toy", 1.0, "toy_robot"), ("x", 0.5, "own")]}
    made, mixed = twins(configs, mixtures, lerobot.single)
    assert list(made) == ["toy_robot_next"]
    assert mixed == {"toy_next": [("toy", 1.0, "toy_robot_next")]}
    assert made["toy_robot_next"].embodiment_tag is configs["toy_robot"].embodiment_tag
    with pytest.raises(ValueError, match=r"Own has a make_dataset of its own"):
        with_next_frame(configs["own"], lerobot.single)


def test_transforms_see_all_frames_of_a_step_at_once(lerobot: SimpleNamespace, folder: Path) -> None:
    """A random transform draws once a step: the same for the frame and the next."""
    dataset = data_set(lerobot, folder, future_offset=4, past_offset=4)
    seen: list[int] = []

    def dim(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(data["video.primary"]))
        return {**data, "video.primary": data["video.primary"] // (len(seen) + 1)}

    trajectory, step = dataset.all_steps[5]
    raw = dataset.get_step_data(trajectory, step)
    bright = np.asarray(dataset._pack_sample(dataset.transforms(dict(raw)))["image_tk"][0].resize((1, 1)))
    sample = dataset._pack_sample(dataset.transforms(dim(raw)))
    assert seen == [3]
    dark = [np.asarray(sample[f"image{suffix}"][0].resize((1, 1))).mean() for suffix in ("", "_tk", "_tp")]
    assert max(dark) < 0.6 * bright.mean()


def test_numbers_beside_arrays_are_plain(lerobot: SimpleNamespace, folder: Path) -> None:
    """As a collate function and JSON take them."""
    sample = data_set(lerobot, folder, past_offset=2)[3]
    plain = {key: value for key, value in sample.items() if isinstance(value, (int, float))}
    assert json.loads(json.dumps(plain)) == plain
    assert {"valid_tk", "offset_tk", "valid_tp", "offset_tp", "contact"} <= plain.keys()
