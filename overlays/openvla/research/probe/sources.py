"""Where probe samples come from: an RLDS data set through upstream's own pipeline, or a JSONL file with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .coverage import Candidate
from .template import Verbatim, template_of, utf8_text, utf8_tokenizer


class ProbeError(ValueError):
    """A probe set, or a source of one, that cannot be used; says which, where, and what to do."""


def rlds_episodes(
    data_root_dir: Path, dataset_name: str, image_size: int, train: bool = True
) -> Iterator[list[Candidate]]:
    """Every episode of an RLDS data set or mixture once, as upstream's pipeline delivers its frames.

    Pictures are ``[image_size, image_size, 3]`` as upstream resizes them, without augmentation; instructions as
    ``RLDSBatchTransform`` lower-cases them. ``train``: the split that finetune.py trains on (the first 95 % where a
    data set has no validation split) or the rest, which it never sees. Frames without an instruction are left out.
    """
    from prismatic.vla.datasets import EpisodicRLDSDataset, RLDSBatchTransform
    from prismatic.vla.datasets.rlds.oxe import OXE_NAMED_MIXTURES

    asked = template_of(Verbatim, RLDSBatchTransform)
    transform = RLDSBatchTransform(
        action_tokenizer=lambda action: "",
        base_tokenizer=utf8_tokenizer,
        image_transform=np.asarray,
        prompt_builder_fn=Verbatim,
    )
    for name, _ in OXE_NAMED_MIXTURES.get(dataset_name, [(dataset_name, 1.0)]):
        episodes = EpisodicRLDSDataset(
            data_root_dir,
            name,
            transform,
            resize_resolution=(image_size, image_size),
            shuffle_buffer_size=1,
            train=train,
            image_aug=False,
        )
        for frames in episodes:
            yield list(_instructed(asked, frames))


def _instructed(asked: Any, frames: list[dict[str, Any]]) -> Iterator[Candidate]:
    for frame in frames:
        words = utf8_text(frame["input_ids"])
        begin, end = asked.characters(words)
        if words[begin:end].strip():
            yield Candidate(np.asarray(frame["pixel_values"]), words[begin:end])


def jsonl_samples(jsonl: Path, images: Path) -> Iterator[list[Candidate]]:
    """Each line ``{"image": path below the folder, "instruction": text, "id": optional name}``, an episode each.

    Instructions are lower-cased as upstream does it. Raises ``ProbeError`` naming the line: no JSON object, a key
    missing, an empty instruction, an id that was there before, a picture that is missing, outside the folder or broken.
    """
    names: set[str] = set()
    try:
        lines = jsonl.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"cannot read {jsonl} ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield [_read(f"{jsonl}, line {number}", line, images, names)]


def _read(place: str, line: str, images: Path, names: set[str]) -> Candidate:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ProbeError(f"{place}: no JSON ({error})") from error
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("image"), str)
        or not isinstance(row.get("instruction"), str)
    ):
        raise ProbeError(f'{place}: needs an object with the texts "image" and "instruction"')
    if not row["instruction"].strip():
        raise ProbeError(f"{place}: empty instruction, which has no tokens to look at; leave the line out")
    name = row.get("id")
    if name is not None and (not isinstance(name, str) or not name or name in names):
        raise ProbeError(f"{place}: id {name!r} is no text or was there before; give every line its own, or none")
    if name is not None:
        names.add(name)
    return Candidate(read_picture(place, images, row["image"]), row["instruction"].lower(), name)


def read_picture(place: str, folder: Path, name: str) -> np.ndarray[Any, Any]:
    """A picture below ``folder`` as RGB, uint8 ``[H, W, 3]``. Raises ``ProbeError``."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ProbeError(f"{place}: {name!r} is outside {folder}; name pictures relative to the folder")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ProbeError(f"{place}: cannot read the picture {path} ({error})") from error
