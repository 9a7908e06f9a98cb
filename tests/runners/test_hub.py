"""The size of a model in the hub's cache: known where the whole model is there, and the line that fetches one."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from runners.hub import downloaded, fetching, model_size
from runners.places import Places, resolve
from runners.places_options import add_options


def snapshot(hub: Path, files: dict[str, int]) -> Path:
    """`someone/model` in the hub's cache as huggingface_hub lays it out: links to blobs; bytes by name of a file."""
    model = hub / "models--someone--model"
    place = model / "snapshots" / "abc"
    (model / "blobs").mkdir(parents=True)
    place.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc", encoding="utf-8")
    for name, size in files.items():
        (model / "blobs" / name).write_bytes(bytes(size))
        (place / name).symlink_to(model / "blobs" / name)
    return place


def index(place: Path, name: str, *shards: str) -> int:
    text = json.dumps({"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}})
    (place / name).write_text(text, encoding="utf-8")
    return len(text)


SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
LISTED = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer.json": 9, "training_args.bin": 9},
        {SHARDS[0]: 100, SHARDS[2]: 100},
        {"model.safetensors.index.json": 0, SHARDS[0]: 100},
    ],
)
def test_a_model_of_which_weights_are_missing_has_no_known_size(tmp_path: Path, files: dict[str, int]) -> None:
    place = snapshot(tmp_path, {"config.json": 7, **files})
    assert downloaded("someone/model", tmp_path) == place
    assert model_size("someone/model", tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "step-100.pt"])
def test_one_file_of_weights_is_a_whole_model_and_a_broken_link_is_none(tmp_path: Path, name: str) -> None:
    place = snapshot(tmp_path, {"config.json": 7, name: 100})
    assert model_size("someone/model", tmp_path) == 107
    os.truncate(place / name, 50)
    assert model_size("someone/model", tmp_path) == 57
    (place / name).resolve().unlink()
    assert model_size("someone/model", tmp_path) is None
    assert model_size("someone/other", tmp_path) is None


def test_every_shard_that_the_index_lists_has_to_be_there(tmp_path: Path) -> None:
    place = snapshot(tmp_path, {"config.json": 7, SHARDS[0]: 100, SHARDS[1]: 100})
    listed = index(place, LISTED, *SHARDS)
    assert model_size("someone/model", tmp_path) is None
    (place / SHARDS[2]).write_bytes(bytes(100))
    assert model_size("someone/model", tmp_path) == 307 + listed
    # The names count as well, where the index itself was not fetched.
    (place / LISTED).unlink()
    assert model_size("someone/model", tmp_path) == 307
    # transformers fetches one kind, whatever other index lies beside it.
    other = index(place, "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin")
    listed = index(place, LISTED, *SHARDS)
    assert model_size("someone/model", tmp_path) == 307 + listed + other


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(bytes(11))
    assert model_size(str(tmp_path), Path("/no hub")) == 11


def places_of(*arguments: str, **environment: str) -> Places:
    parser = argparse.ArgumentParser()
    add_options(parser, "method")
    return resolve(parser.parse_args(arguments), "method", {"GRAFT_PLACES": os.devnull, **environment})


def test_the_line_that_fetches_names_mirror_cache_and_the_whole_model(tmp_path: Path) -> None:
    places = places_of("--hf-home", "/a b", "--hf-endpoint", "https://mirror", "--no-offline")
    (tmp_path / "huggingface-cli").touch()
    python = str(tmp_path / "python")
    assert fetching("someone/model", places, python) == (
        f"HF_HOME='/a b' HF_ENDPOINT=https://mirror {tmp_path}/huggingface-cli download someone/model"
    )
    (tmp_path / "hf").touch()
    told = fetching("someone/model", places_of("--hf-home", "/h", "--offline", HF_HUB_CACHE="/hub"), python)
    assert told == f"HF_HOME=/h HF_HUB_CACHE=/hub HF_HUB_OFFLINE=0 {tmp_path}/hf download someone/model"
