"""Models in the hub's cache: what of them is there, how large they are, and how one is fetched."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from runners.places import Places
from runners.room import size_of

WEIGHTS = re.compile(r".*\.safetensors|pytorch_model.*\.bin|.*\.(pt|pth)")
INDICES = ("*.safetensors.index.json", "*.bin.index.json")
SHARD = re.compile(r"(.*-)(\d+)(-of-)(\d+)(\..*)")


def downloaded(name: str, hub: Path) -> Path | None:
    """The folder in the hub's cache with the configuration of the model `name`, or None where that was not fetched yet.

    Its weights may be missing.
    """
    place = hub / f"models--{name.replace('/', '--')}"
    reference = place / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = place / "snapshots" / reference.read_text(encoding="utf-8").strip()
    return snapshot if (snapshot / "config.json").is_file() else None


def whole(snapshot: Path) -> bool:
    """Whether the weights of a model are there: all shards that an index or the name of one of them tells of."""
    indices = [index for pattern in INDICES for index in snapshot.glob(pattern)]
    if indices:
        # transformers loads the first of them, and another may have been fetched with nothing that it lists.
        return any(names and _all_there(snapshot, names) for names in map(_listed, indices))
    found = [path for path in snapshot.rglob("*") if path.is_file() and WEIGHTS.fullmatch(path.name)]
    return bool(found) and all(_all_there(path.parent, _siblings(path.name)) for path in found)


def _all_there(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _listed(index: Path) -> set[str]:
    """The files that an index lists; none where it is damaged or only a link to what was not fetched."""
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _siblings(name: str) -> list[str]:
    """A shard and all others of its set, or the name alone."""
    shard = SHARD.fullmatch(name)
    if shard is None:
        return [name]
    before, digits, of, count, after = shard.groups()
    return [f"{before}{number:0{len(digits)}d}{of}{count}{after}" for number in range(1, int(count) + 1)]


def model_size(model: str, hub: Path) -> int | None:
    """Bytes of a model, a folder or a name on the hub; None for one of which anything is still to be downloaded."""
    if Path(model).is_dir():
        return size_of(Path(model))
    place = downloaded(model, hub)
    return size_of(place) if place is not None and whole(place) else None


def not_checked(model: str) -> str:
    """What is said where the size of a model is not known."""
    return (
        f"    room: {model} is not whole in the hub's cache, so nobody knows yet how large it and its checkpoints are: "
        "whether they fit on the disk is not checked before it is there"
    )


def fetching(model: str, places: Places, python: str) -> str:
    """The shell's line that fetches a whole model to where commands look for it, with the tool beside `python`."""
    told = places.environment()
    names = [name for name in ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT") if name in told]
    # Offline is for the run: this command is what fetches.
    online = ["HF_HUB_OFFLINE=0"] if places.offline else []
    tools = [Path(python).with_name(name) for name in ("hf", "huggingface-cli")]
    tool = next((path for path in tools if path.exists()), tools[0])
    words = [*(f"{name}={shlex.quote(told[name])}" for name in names), *online]
    return " ".join([*words, shlex.join([str(tool), "download", model])])
