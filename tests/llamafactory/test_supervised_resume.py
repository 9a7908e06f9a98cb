"""Supervise's resume on LLaMA-Factory's own command: bit-identical, and with the learning rate that was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from safetensors.torch import load_file

tiny.require()

from runners.supervise.carry import carried  # noqa: E402
from runners.supervise.checkpoints import Checkpoint, complaint, found, last_good  # noqa: E402
from runners.supervise.command import Command, families, recognise  # noqa: E402

STEPS, BEGIN = 9, 6


def run(command: Command) -> dict[int, dict[str, Any]]:
    """Runs a command; returns the rows of its trainer_log.jsonl by step."""
    done = subprocess.run(
        command.words, cwd=command.folder, env={**os.environ, **command.environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command.shown()}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    rows = map(json.loads, (command.output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["current_steps"]: row for row in rows if "loss" in row}


def weights(command: Command) -> bytes:
    return (command.output / "adapter_model.safetensors").read_bytes()


def given(home: Path, model: Path, data: Path, **changes: Any) -> Command:
    """The command of a run of `STEPS` steps, a checkpoint every three."""
    changes = {"max_steps": STEPS, "save_steps": 3, "save_only_model": False, **changes}
    settings = tiny.settings(model, data, home / "whole", **changes)
    config = home / "train.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tiny.SRC), tiny.stub_path(), os.environ.get("PYTHONPATH", "")]))
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    words = [sys.executable, "-m", "llamafactory.cli", "train", str(config)]
    command = recognise(words, home, environment, families())
    assert command.python == sys.executable
    return command


@pytest.fixture(scope="module")
def whole(
    text_model: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Command, dict[int, dict[str, Any]]]:
    """An uninterrupted run: dropout needs the random state, a cosine needs the schedule."""
    home = tmp_path_factory.mktemp("supervised")
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 2}
    command = given(home, text_model, data_folder, lora_dropout=0.1, **schedule)
    return command, run(command)


def cut(whole: Command, name: str) -> tuple[Command, Checkpoint]:
    """The command with an output of its own, in which the run ended after step `BEGIN`."""
    command = whole.with_roles({"output": whole.folder / name})
    shutil.copytree(whole.output / f"checkpoint-{BEGIN}", command.output / f"checkpoint-{BEGIN}")
    kept = (whole.output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:BEGIN]
    (command.output / "trainer_log.jsonl").write_text("".join(kept), encoding="utf-8")
    checkpoint = last_good(command, pytest.fail)
    assert checkpoint is not None
    assert checkpoint.step == BEGIN
    return command, checkpoint


@pytest.mark.upstream_heavy
def test_real_checkpoints_are_good_and_a_cut_one_is_not(whole: Any, tmp_path: Path) -> None:
    command, _ = whole
    items = found(command)
    assert [item.step for item in items] == [3, 6, 9]
    assert [complaint(item, command) for item in items] == [None] * 3
    for name in sorted(path.name for path in items[0].path.iterdir() if path.suffix in (".pt", ".pth", ".safetensors")):
        copy = tmp_path / name / "checkpoint-3"
        shutil.copytree(items[0].path, copy)
        with (copy / name).open("r+b") as file:
            file.truncate((copy / name).stat().st_size * 2 // 3)
        assert name in str(complaint(Checkpoint(copy, 3), command)), name


@pytest.mark.upstream_heavy
@pytest.mark.parametrize("through_a_copy", [False, True])
def test_a_resume_is_bit_identical(whole: Any, through_a_copy: bool) -> None:
    command, rows = whole
    part, checkpoint = cut(command, f"same-{through_a_copy}")
    if through_a_copy:
        # Twice and half again: no bit of the rate is lost, but every file that holds it is written anew.
        for number, factor in enumerate((2.0, 0.5)):
            checkpoint = carried(checkpoint, part, factor, command.folder / f"carried-{number}")
    after = run(part.resumed(checkpoint))
    assert weights(part) == weights(command)
    assert sorted(after) == list(range(1, STEPS + 1))
    assert [(after[step]["loss"], after[step]["lr"]) for step in after] == [
        (rows[step]["loss"], rows[step]["lr"]) for step in after
    ]


@pytest.mark.upstream_heavy
def test_a_rescaled_checkpoint_halves_the_rate_and_the_command_line_alone_does_not(whole: Any) -> None:
    command, rows = whole
    rates = {}
    for name, factor in (("line", None), ("half", 0.5)):
        part, checkpoint = cut(command, name)
        if factor:
            checkpoint = carried(checkpoint, part, factor, command.folder / "carried-half")
        halved = part.with_roles({"rate": float(str(part.get("rate"))) / 2})
        assert halved.get("rate") == "0.0005"
        after = run(halved.resumed(checkpoint))
        rates[name] = [after[step]["lr"] for step in range(BEGIN + 1, STEPS + 1)]
        assert after[BEGIN + 1]["loss"] == rows[BEGIN + 1]["loss"]
        assert weights(part) != weights(command) or factor is None
    whole_rates = [rows[step]["lr"] for step in range(BEGIN + 1, STEPS + 1)]
    assert rates["line"] == whole_rates
    assert rates["half"] == [rate / 2 for rate in whole_rates]
    assert whole_rates[0] > 0


@pytest.mark.upstream_heavy
def test_a_halved_batch_with_twice_the_accumulation_ends_as_the_whole_run(
    text_model: Path, data_folder: Path, tmp_path: Path
) -> None:
    command = given(tmp_path, text_model, data_folder)  # without dropout, whose masks are drawn batch by batch
    rows = run(command)
    part, checkpoint = cut(command, "halved")
    before = weights_at(checkpoint.path)
    halved = part.with_roles({"batch": 1, "accumulation": 2})
    checkpoint = carried(checkpoint, halved, 1.0, tmp_path / "carried")
    state = json.loads((checkpoint.path / "trainer_state.json").read_text(encoding="utf-8"))
    assert (checkpoint.path.parent, state["train_batch_size"]) == (tmp_path / "carried", 1)
    after = run(halved.resumed(checkpoint))
    assert sorted(after) == list(range(1, STEPS + 1))
    for step in range(BEGIN + 1, STEPS + 1):
        assert after[step]["loss"] == pytest.approx(rows[step]["loss"], rel=1e-3)
        assert after[step]["lr"] == rows[step]["lr"]
    expected, found = weights_at(command.output), weights_at(part.output)
    moved = sum(float(((expected[name] - before[name]) ** 2).sum()) for name in expected)
    off = sum(float(((expected[name] - found[name]) ** 2).sum()) for name in expected)
    # Adam divides by the gradient's own size: where that is next to nothing, rounding moves a weight.
    assert off < 1e-4 * moved


def weights_at(folder: Path) -> dict[str, Any]:
    """The adapter's tensors, in float64."""
    return {name: tensor.double() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
