"""A data set on disk is ``steps.npz`` (images uint8 [N, H, W, 3], actions float32 [N, 7]) and ``instructions.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prismatic.overwatch import initialize_overwatch

overwatch = initialize_overwatch(__name__)
TRAIN = 0.95
"""The first steps of a data set, by number, are for training; the rest is held out, as upstream has it."""


def write_dataset(folder: Path, images: np.ndarray, actions: np.ndarray, instructions: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "steps.npz", images=images, actions=actions)
    (folder / "instructions.json").write_text(json.dumps(list(instructions)))


@dataclass
class Steps:
    """The steps of one data set: once in order, or without end and shuffled by torch's seed and the rank."""

    folder: Path
    resize_size: tuple[int, int]
    train: bool
    image_aug: bool = False
    endless: bool = True

    def __post_init__(self) -> None:
        if not (self.folder / "steps.npz").is_file():
            raise FileNotFoundError(f"no data set at {self.folder}: write it with `toy_world.batches.write_data`")
        with np.load(self.folder / "steps.npz", allow_pickle=False) as arrays:
            images, actions = arrays["images"], arrays["actions"]
        instructions = json.loads((self.folder / "instructions.json").read_text())
        cut = int(len(actions) * TRAIN)
        kept = slice(None, cut) if self.train else slice(cut, None)
        self.images, self.actions, self.instructions = images[kept], actions[kept], instructions[kept]

    def __len__(self) -> int:
        return len(self.actions)

    def as_numpy_iterator(self) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng((torch.initial_seed(), overwatch.rank()))
        while True:
            for index in rng.permutation(len(self)) if self.endless else range(len(self)):
                yield {
                    "dataset_name": self.folder.name.encode(),
                    "action": self.actions[None, index],
                    "observation": {"image_primary": self._image(index, rng)[None]},
                    "task": {"language_instruction": self.instructions[index].encode()},
                }
            if not self.endless:
                return

    def _image(self, index: int, rng: np.random.Generator) -> np.ndarray:
        image = self.images[index]
        if image.shape[:2] != self.resize_size:
            image = np.asarray(Image.fromarray(image).resize(self.resize_size[::-1], Image.Resampling.LANCZOS))
        if self.image_aug:
            image = (image * rng.uniform(0.9, 1.1)).clip(0, 255).round().astype(np.uint8)
        return image


@dataclass
class Mixture:
    """Steps of several data sets, one of each in turn."""

    parts: list[Steps]

    def as_numpy_iterator(self) -> Iterator[dict[str, Any]]:
        for turn in zip(*(part.as_numpy_iterator() for part in self.parts), strict=True):
            yield from turn


def make_interleaved_dataset(
    root: Path,
    mixture: list[tuple[str, float]],
    resize_size: tuple[int, int],
    shuffle_buffer_size: int,
    train: bool,
    image_aug: bool,
) -> tuple[Mixture, int, dict[str, Any]]:
    """An endless mixture, how many steps it has, and the statistics by which actions are un-normalised (none here)."""
    parts = [Steps(root / name, resize_size, train, image_aug) for name, _ in mixture]
    return Mixture(parts), sum(map(len, parts)), {part.folder.name: statistics(len(part)) for part in parts}


def make_single_dataset(
    root: Path,
    mixture: list[tuple[str, float]],
    resize_size: tuple[int, int],
    shuffle_buffer_size: int,
    train: bool,
    image_aug: bool,
) -> tuple[Steps, int, dict[str, Any]]:
    """One data set, once and in order."""
    ((name, _),) = mixture
    steps = Steps(root / name, resize_size, train, image_aug, endless=False)
    return steps, len(steps), {name: statistics(len(steps))}


def statistics(count: int) -> dict[str, Any]:
    scale = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    return {"action": scale, "num_transitions": count}
