"""`python -m runners supervise` over the real `llamafactory-cli train`: plateau, trials, Ctrl-C, and two ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import test_supervised as supervised
import tiny
import yaml

from tests.runners.screens import Screen, Terminal
from tests.runners.supervise.real_runs import RealRun

tiny.require()
pytestmark = pytest.mark.upstream_heavy
STEPS, EVERY = 400, 20
CHANGES = """
[[change]]
name = "half the rate"
rate = "x0.5"

[[change]]
name = "cosine"
[change.settings]
lr_scheduler_type = "cosine"

[[change]]
name = "rank 16"
rank = 16
begin = "anew"
"""
ANSWERS = ["Paris", "London", "the sea", "a robot", "red cup", "the door", "a joke", "left"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One question with eight answers: all of it is one batch, and its loss ends above zero, nearly without noise."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"instruction": "Say a word", "input": "", "output": answer} for answer in ANSWERS]
    (folder / "unsure.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"unsure": {"file_name": "unsure.json"}}), encoding="utf-8")
    return folder


def run_of(home: Path, model: Path, data: Path, *options: object, **changes: Any) -> RealRun:
    home.mkdir(exist_ok=True)
    own = {"dataset": "unsure", "max_steps": STEPS, "save_steps": EVERY, "per_device_train_batch_size": len(ANSWERS)}
    own |= {"lora_rank": 2, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    made = supervised.settings(model, data, home / "output", **(own | changes))
    (home / "run.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    program = Path(sys.executable).with_name("llamafactory-cli")
    return RealRun(home, [program, "train", home / "run.yaml"], supervised.environment(), options)


def steps_of(output: Path) -> list[int]:
    rows = map(json.loads, (output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["current_steps"] for row in rows if "loss" in row]


def test_trials_at_a_plateau_and_the_best_to_the_end(text_model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "changes.toml").write_text(CHANGES, encoding="utf-8")
    run = run_of(tmp_path, text_model, data, "--auto-tune", tmp_path / "changes.toml")
    assert run.run() == 0, run.said
    (paused, *_) = run.decisions("end")
    assert paused["why"] == "the loss has stopped falling"
    assert STEPS // 5 <= paused["step"] < STEPS
    assert [item["name"] for item in run.decisions("trial")] == ["half the rate", "cosine", "rank 16"]
    assert {item["state"] for item in run.decisions("trial")} == {"paused"}
    assert any(item["better"] for item in run.decisions("trial")), run.said
    assert len(run.decisions("tuned")) == 1
    assert run.decisions("end")[-1]["state"] == "done"
    lines = (run.folder / "best" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    output = Path(next(item["output"] for item in map(json.loads, lines) if item["kind"] == "attempt"))
    assert (output / "adapter_model.safetensors").is_file()
    assert steps_of(output)[-1] == STEPS
    for name in ("analysis.html", "report.html"):
        html = (run.folder / name).read_text(encoding="utf-8")
        assert all(change in html for change in ("half the rate", "cosine", "rank 16")), name


def test_a_plateau_stops_it_where_that_is_asked_for(text_model: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, text_model, data, "--plateau", "stop")
    assert run.run() == 3, run.said
    (end,) = run.decisions("end")
    assert end["state"] == "paused"
    assert (tmp_path / "output" / f"checkpoint-{end['step']}" / "trainer_state.json").is_file()
    assert steps_of(tmp_path / "output")[-1] < STEPS
    assert (run.folder / "analysis.html").is_file()


def test_control_c_on_a_terminal_leaves_it_as_it_was(text_model: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, text_model, data)
    words = [*map(str, run.words)]
    # The supervisor itself is what the terminal runs.
    code = f"import os; os.chdir({str(tmp_path)!r}); os.execve({words[0]!r}, {words!r}, dict(os.environ))"
    terminal = Terminal(code, 100, run.environment)
    terminal.until(lambda text: "loss" in text and "left" in text, 120)
    terminal.press("\x03")
    said = terminal.end(60)
    assert terminal.code == 130, said
    assert run.running() == {}
    screen = Screen(100)
    screen.feed(said)
    assert screen.lines[-1] == ""
    assert run.decisions("end")[-1]["state"] == "interrupted"
    # Each thing once, and of the live block nothing but its last figures.
    assert len([line for line in screen.lines if line.startswith("report:")]) == 1
    assert re.search(r"step \d+ of 400 .*, ended after", screen.lines[-2])
    assert not any("left" in line or "━" in line for line in screen.lines)


def test_a_worker_of_two_that_is_killed_is_the_cause(text_model: Path, data: Path, tmp_path: Path) -> None:
    # transformers 5 cannot load an optimizer on several ranks without GPUs: torch knows no location "cpu:0".
    ranked = {"per_device_train_batch_size": 4, "ddp_backend": "gloo", "save_only_model": True}
    run = run_of(tmp_path, text_model, data, max_steps=60, **ranked)
    run.environment |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "MASTER_PORT": str(tiny.free_port())}
    run.environment |= {"GLOO_SOCKET_IFNAME": "lo"}
    # llamafactory-cli calls torchrun by its name.
    run.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run.start()
    run.wait(lambda: (tmp_path / "output" / f"checkpoint-{EVERY}" / "trainer_state.json").is_file(), "saved")
    (agent,) = run.of("launcher.py", "torchrun")
    workers = [pid for pid in run.of("launcher.py") if pid != agent and "--nproc_per_node" not in run.running()[pid]]
    assert len(workers) == 2
    # Held back, torchrun finds both ranks failed, and the one that is left has complained.
    os.kill(agent, signal.SIGSTOP)
    os.kill(workers[1], signal.SIGKILL)
    run.wait(lambda: re.search(r"\[rank\d\]: .*by peer", run.log), "complained of")
    os.kill(agent, signal.SIGCONT)
    assert run.end() == 0, run.said
    assert run.remedies == ["killed/resume"], run.said
    assert run.begun[1] in (f"checkpoint-{EVERY}", f"checkpoint-{2 * EVERY}")
    assert {*steps_of(tmp_path / "output")} == {*range(1, 61)}
