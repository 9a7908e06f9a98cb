"""The batch that a checkpoint carries: changed in a copy where a resume would take the old one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from runners.supervise.carry import carried
from runners.supervise.checkpoints import Checkpoint, complaint
from tests.runners.supervise.test_checkpoints import TORCH, huggingface, make
from tests.runners.supervise.test_checkpoints import real_python as real_python


def with_batch(folder: Path, step: int, batch: int | None) -> Checkpoint:
    """A checkpoint of transformers' Trainer that says the batch of a device."""
    path = huggingface(folder, step)
    state = path / "trainer_state.json"
    said = json.loads(state.read_text(encoding="utf-8"))
    state.write_text(json.dumps({**said, "train_batch_size": batch}), encoding="utf-8")
    return Checkpoint(path, step)


def test_a_smaller_batch_is_written_into_a_copy(tmp_path: Path) -> None:
    command = make(tmp_path, "src/train.py --output_dir out --per_device_train_batch_size 2")
    item = with_batch(command.output, 3, 4)
    before = {path.name: path.read_bytes() for path in item.path.iterdir()}
    made = carried(item, command, 1.0, tmp_path / "into")
    assert made == Checkpoint(tmp_path / "into" / "checkpoint-3", 3)
    state = json.loads((made.path / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["train_batch_size"], state["global_step"], len(state["log_history"])) == (2, 3, 1)
    assert {path.name: path.read_bytes() for path in item.path.iterdir()} == before
    assert {path.name for path in made.path.iterdir()} == set(before)
    linked = {name for name in before if (made.path / name).samefile(item.path / name)}
    assert linked == set(before) - {"trainer_state.json"}
    assert complaint(made, command, finite=False) is None


def test_a_second_copy_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    command = make(tmp_path, "src/train.py --output_dir out --per_device_train_batch_size 2")
    for step in (3, 6):
        carried(with_batch(command.output, step, 4), command, 1.0, tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["checkpoint-6"]


@pytest.mark.parametrize(("words", "batch"), [
    ("--per_device_train_batch_size 4", 4),
    ("", 8),  # upstream's own default
    ("--per_device_train_batch_size 2", None),  # upstream takes the command line's where the file says none
    ("--per_device_train_batch_size 2 --auto_find_batch_size true", 1),
])  # fmt: skip
def test_where_the_batch_is_right_the_checkpoint_stays(tmp_path: Path, words: str, batch: int | None) -> None:
    command = make(tmp_path, f"src/train.py --output_dir out {words}")
    item = with_batch(command.output, 3, batch)
    assert carried(item, command, 1.0, tmp_path / "into") is item
    assert not (tmp_path / "into").exists()


def test_another_batch_and_another_rate_are_one_copy(tmp_path: Path, real_python: str) -> None:
    command = make(tmp_path, "src/train.py --output_dir out --per_device_train_batch_size 2", real_python)
    item = with_batch(command.output, 3, 4)
    subprocess.run([real_python, "-c", TORCH, str(item.path)], check=True)
    made = carried(item, command, 0.5, tmp_path / "into")
    changed = {path.name for path in item.path.iterdir() if not (made.path / path.name).samefile(path)}
    assert changed == {"optimizer.pt", "scheduler.pt", "trainer_state.json"}
    assert json.loads((made.path / "trainer_state.json").read_text(encoding="utf-8"))["train_batch_size"] == 2
    read = "import sys, torch; print(torch.load(sys.argv[1], weights_only=True)['base_lrs'])"
    said = subprocess.run([real_python, "-c", read, str(made.path / "scheduler.pt")], capture_output=True, check=True)
    assert json.loads(said.stdout) == [0.25, 0.125]
