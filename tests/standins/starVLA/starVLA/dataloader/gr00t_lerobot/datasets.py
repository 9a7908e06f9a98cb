"""LeRobot v2.0 data sets whose pictures lie in the parquet files, and mixtures of them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel
from torch.utils.data import Dataset

from starVLA.dataloader.gr00t_lerobot.embodiment_tags import EmbodimentTag
from starVLA.dataloader.gr00t_lerobot.transform import ComposedModalityTransform

SIZE = (32, 32)


class ModalityConfig(BaseModel):
    """Which keys of a modality are read, at which steps relative to the current one."""

    delta_indices: list[int]
    modality_keys: list[str]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class LeRobotSingleDataset(Dataset):
    def __init__(
        self,
        dataset_path: Path | str,
        modality_configs: dict[str, ModalityConfig],
        embodiment_tag: str | EmbodimentTag,
        video_backend: str = "decord",
        video_backend_kwargs: dict | None = None,
        transforms: ComposedModalityTransform | None = None,
        delete_pause_frame: bool = False,
        data_cfg=None,
        **kwargs,
    ):
        self.data_cfg, self.modality_configs = data_cfg, modality_configs
        self.transforms = transforms if transforms is not None else ComposedModalityTransform(transforms=[])
        self.dataset_path, self.tag = Path(dataset_path), EmbodimentTag(embodiment_tag).value
        self.dataset_name = self.dataset_path.name
        meta = self.dataset_path / "meta"
        self._columns = json.loads((meta / "modality.json").read_text())
        self.lerobot_info_meta = json.loads((meta / "info.json").read_text())
        self._tasks = {task["task_index"]: task["task"] for task in _lines(meta / "tasks.jsonl")}
        episodes = _lines(meta / "episodes.jsonl")
        self._trajectory_ids = np.array([episode["episode_index"] for episode in episodes])
        self._trajectory_lengths = np.array([episode["length"] for episode in episodes])
        self.modality_keys = {name: config.modality_keys for name, config in modality_configs.items()}
        self.delta_indices = {
            key: np.array(config.delta_indices) for config in modality_configs.values() for key in config.modality_keys
        }
        self.curr_traj_data, self.curr_traj_id, self._tables = None, None, {}
        lengths = zip(self.trajectory_ids.tolist(), self.trajectory_lengths.tolist(), strict=True)
        self.all_steps = [(name, step) for name, length in lengths for step in range(length)]
        self.metadata = self._statistics(meta / "stats_gr00t.json")
        self.transforms.set_metadata(self.metadata)

    @property
    def trajectory_ids(self) -> np.ndarray:
        return self._trajectory_ids

    @property
    def trajectory_lengths(self) -> np.ndarray:
        return self._trajectory_lengths

    def _statistics(self, cache: Path) -> dict[str, Any]:
        """Least and greatest value by key, from ``meta/`` where they were written down before."""
        if not cache.exists():
            found = {}
            whole = pd.concat([self.get_trajectory_data(name) for name in self.trajectory_ids])
            for key in (*self.modality_keys["state"], *self.modality_keys["action"]):
                values = self._column(whole, key)
                found[key] = {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
            part = cache.with_name(f"{cache.name}.{os.getpid()}")
            part.write_text(json.dumps(found))
            part.replace(cache)
        return json.loads(cache.read_text())

    def _column(self, table: pd.DataFrame, key: str) -> np.ndarray:
        modality, _, name = key.partition(".")
        known = self._columns[modality][name]
        return np.stack(table[known["original_key"]])[:, known["start"] : known["end"]]

    def __len__(self) -> int:
        return len(self.all_steps)

    def __getitem__(self, index: int) -> dict:
        trajectory_id, base_index = self.all_steps[index]
        return self._pack_sample(self.transforms(self.get_step_data(trajectory_id, base_index)))

    def _pack_sample(self, data: dict) -> dict:
        """The transformed data of a step as a training sample."""
        sample = {
            "action": np.concatenate([data[key] for key in self.modality_keys["action"]], axis=1).astype(np.float16),
            "image": [Image.fromarray(data[key][0]).resize(SIZE) for key in self.modality_keys["video"]],
            "lang": data[self.modality_keys["language"][0]][0],
            "robot_tag": self.tag,
        }
        if self.data_cfg is not None and self.data_cfg.get("include_state", False) not in ["False", False]:
            states = [data[key] for key in self.modality_keys["state"]]
            sample["state"] = np.concatenate(states, axis=1).astype(np.float16)
        return sample

    def get_step_data(self, trajectory_id: int, base_index: int) -> dict:
        """Raw data by modality key; steps outside of the episode are those at its ends."""
        self.curr_traj_data = self.get_trajectory_data(trajectory_id)
        return {
            key: self.get_data_by_modality(trajectory_id, modality, key, base_index)
            for modality, keys in self.modality_keys.items()
            for key in keys
        }

    def get_trajectory_data(self, trajectory_id: int) -> pd.DataFrame:
        if trajectory_id not in self._tables:
            size, pattern = self.lerobot_info_meta["chunks_size"], self.lerobot_info_meta["data_path"]
            name = pattern.format(episode_chunk=trajectory_id // size, episode_index=trajectory_id)
            self._tables[trajectory_id] = pd.read_parquet(self.dataset_path / name)
        return self._tables[trajectory_id]

    def get_trajectory_index(self, trajectory_id: int) -> int:
        return int(np.flatnonzero(self.trajectory_ids == trajectory_id)[0])

    def get_data_by_modality(self, trajectory_id: int, modality: str, key: str, base_index: int):
        table = self.curr_traj_data
        last = self.trajectory_lengths[self.get_trajectory_index(trajectory_id)] - 1
        steps = np.clip(self.delta_indices[key] + base_index, 0, last)
        if modality in ("state", "action"):
            return self._column(table, key)[steps]
        kind, _, name = key.partition(".")
        values = table[self._columns[kind][name]["original_key"]].iloc[steps]
        if modality == "language":
            return [self._tasks[int(value)] for value in values]
        return np.stack([np.array(Image.open(io.BytesIO(value["bytes"])).convert("RGB")) for value in values])


class LeRobotMixtureDataset(Dataset):
    def __init__(
        self,
        data_mixture,
        mode: str,
        balance_dataset_weights: bool = True,
        balance_trajectory_weights: bool = True,
        seed: int = 42,
        **kwargs,
    ):
        self.datasets = [dataset for dataset, _ in data_mixture]
        weights = np.array([weight for _, weight in data_mixture], dtype=float)
        if balance_dataset_weights:
            weights *= [len(dataset) for dataset in self.datasets]
        self.weights, self.by_length = weights / weights.sum(), balance_trajectory_weights
        self.mode, self.seed, self.epoch = mode, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def sample_step(self, index: int) -> tuple[LeRobotSingleDataset, int, int]:
        """A step drawn by epoch, index and seed, whatever any generator's state is."""
        rng = np.random.default_rng([self.epoch, index, self.seed] if self.mode == "train" else index)
        dataset = self.datasets[rng.choice(len(self.datasets), p=self.weights)]
        lengths = dataset.trajectory_lengths
        episode = rng.choice(len(lengths), p=lengths / lengths.sum() if self.by_length else None)
        return dataset, dataset.trajectory_ids[episode], int(rng.integers(lengths[episode]))

    def __getitem__(self, index: int) -> dict:
        if index >= len(self):
            raise IndexError(index)
        dataset, trajectory_id, step = self.sample_step(index)
        raw_data = dataset.get_step_data(trajectory_id, step)
        data = dataset.transforms(raw_data)
        return dataset._pack_sample(data)

    def __len__(self) -> int:
        return max(int(len(each) / weight) for each, weight in zip(self.datasets, self.weights, strict=True))

    def save_dataset_statistics(self, save_path: Path | str, format: str = "json") -> None:
        """What a checkpoint needs to undo the scaling, by embodiment tag."""
        found: dict[str, Any] = {}
        for dataset in self.datasets:
            for modality in ("action", "state"):
                known = [dataset.metadata[key] for key in dataset.modality_keys[modality]]
                low, high = ([value for each in known for value in each[name]] for name in ("min", "max"))
                scaled = {"min": low, "max": high, "q01": low, "q99": high, "mask": [True] * len(low)}
                found.setdefault(dataset.tag, {})[modality] = scaled
        Path(save_path).write_text(json.dumps(found))
