"""`python -m runners supervise` over the real `llamafactory-cli train`: it dies, and ends as if it had not."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from safetensors.torch import load_file, save_file

tiny.require()
pytestmark = pytest.mark.upstream_heavy
ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


def settings(model: Path, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A LoRA run whose checkpoints hold everything, every ten steps."""
    more = {"max_steps": STEPS, "save_steps": 10, "save_only_model": False, "lr_scheduler_type": "cosine"}
    return tiny.settings(model, data, output, **(more | changes))


def environment() -> dict[str, str]:
    path = [str(tiny.SRC), tiny.stub_path()]
    return os.environ | {
        **{"PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        "DISABLE_VERSION_CHECK": "1",
    }


class Supervised:
    """A supervisor over a training run, with a look at its steps while it runs."""

    def __init__(self, home: Path, made: dict[str, Any], options: Sequence[str] = ()) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.output = home, Path(made["output_dir"])
        config = home / "run.yaml"
        config.write_text(yaml.safe_dump(made), encoding="utf-8")
        own = ["--work", str(home / "work"), "--name", "run", "--lang", "en", *options]
        self.command = [str(Path(sys.executable).with_name("llamafactory-cli")), "train", str(config)]
        self.words = [sys.executable, str(ROOT / "runners"), "supervise", *own, "--", *self.command]

    def run(self, beside: Callable[[subprocess.Popen[str]], None] | None = None) -> tuple[int, str]:
        process = subprocess.Popen(
            self.words, cwd=self.home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        thread = threading.Thread(target=beside, args=(process,)) if beside else None
        if thread is not None:
            thread.start()
        said, _ = process.communicate(timeout=900)
        if thread is not None:
            thread.join()
        return process.returncode, said

    @property
    def rows(self) -> list[dict[str, Any]]:
        log = self.output / "trainer_log.jsonl"
        if not log.exists():
            return []
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def trainer(self) -> int | None:
        """The process id of the training command, by its words."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if (
                str(self.home / "run.yaml").encode() in words
                and any(word.endswith(b"llamafactory-cli") for word in words)
                and b"supervise" not in words
            ):
                return int(entry.name)
        return None

    @property
    def decisions(self) -> list[dict[str, Any]]:
        lines = (self.home / "work" / "run" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def adapter(output: Path) -> bytes:
    return (output / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(text_model: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "output"
    tiny.train(settings(text_model, data_folder, output))
    return output


def test_killed_three_times_at_random_steps(
    text_model: Path, data_folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = Supervised(tmp_path, settings(text_model, data_folder, tmp_path / "output"))
    draw = random.Random(20261121)
    # Anywhere in the run, in whatever the trainer is doing then: a step, a save, a log.
    when = sorted(draw.uniform(1, STEPS - 2) for _ in range(3))
    killed: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        for step in when:
            while process.poll() is None and max((row["current_steps"] for row in run.rows), default=0) < step:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.2))
            trainer = run.trainer()
            if trainer is not None and process.poll() is None:
                os.kill(trainer, signal.SIGKILL)
                killed.append(trainer)
                while process.poll() is None and run.trainer() == trainer:
                    time.sleep(0.05)

    code, said = run.run(kill)
    assert code == 0, said
    assert len(set(killed)) == 3, f"killed {killed} at {when}\n{said}"
    remedies = [f"{item['cause']}/{item['remedy']}" for item in run.decisions if item["kind"] == "remedy"]
    assert remedies == ["killed/resume"] * 3, said
    assert adapter(run.output) == adapter(uninterrupted)
    steps = [row["current_steps"] for row in run.rows if "loss" in row]
    assert {*steps} == {*range(1, STEPS + 1)}
    # Nothing but the steps since a checkpoint was done twice.
    assert len(steps) - STEPS <= 3 * 10
    by_step = {row["current_steps"]: row["loss"] for row in run.rows if "loss" in row}
    plain = [json.loads(line) for line in (uninterrupted / "trainer_log.jsonl").read_text().splitlines()]
    assert by_step == {row["current_steps"]: row["loss"] for row in plain if "loss" in row}


def test_the_supervisor_itself_is_killed(
    text_model: Path, data_folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Its command goes on by itself; called again, the supervisor refuses, and later goes on from what is there."""
    run = Supervised(tmp_path, settings(text_model, data_folder, tmp_path / "output"))

    def kill_both(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and max((row["current_steps"] for row in run.rows), default=0) < 25:
            time.sleep(0.02)
        trainer = run.trainer()
        process.kill()
        process.wait()
        refused = subprocess.run(run.words, cwd=run.home, env=environment(), capture_output=True, text=True)
        assert refused.returncode == 2
        assert "in use" in refused.stderr
        assert trainer is not None
        os.kill(trainer, signal.SIGKILL)
        while run.trainer() == trainer:
            time.sleep(0.05)

    code, _ = run.run(kill_both)
    assert code == -signal.SIGKILL
    code, said = run.run()
    assert code == 0, said
    assert adapter(run.output) == adapter(uninterrupted)


def test_weights_that_are_no_numbers_are_passed_over(
    text_model: Path, data_folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = Supervised(tmp_path, settings(text_model, data_folder, tmp_path / "output"))
    poisoned: list[str] = []

    def poison(process: subprocess.Popen[str]) -> None:
        """A kill, and NaN in every checkpoint from step 30 on: the next attempt would begin from them."""
        while process.poll() is None and not (run.output / "checkpoint-30" / "trainer_state.json").exists():
            time.sleep(0.02)
        trainer = run.trainer()
        if trainer is None:
            return
        # The supervisor is held until the files are as they are to be found.
        process.send_signal(signal.SIGSTOP)
        os.kill(trainer, signal.SIGKILL)
        for checkpoint in run.output.glob("checkpoint-[3-6]0"):
            file = checkpoint / "adapter_model.safetensors"
            tensors = load_file(file)
            next(iter(tensors.values())).fill_(math.nan)
            save_file(tensors, file, metadata={"format": "pt"})
            poisoned.append(checkpoint.name)
        process.send_signal(signal.SIGCONT)

    code, said = run.run(poison)
    assert code == 0, said
    assert "checkpoint-30" in poisoned
    begun = [item["begun"] for item in run.decisions if item["kind"] == "attempt"]
    assert [Path(path).name if path else None for path in begun] == [None, "checkpoint-20"]
    assert adapter(run.output) == adapter(uninterrupted)
