"""Whole sessions: a plateau, trials, interruptions, and what is left for the next call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pages import check_whole
from tests.runners.supervise.supervised import Run, command_of, supervised, trained

# Labels with noise: the loss falls for some twenty steps, and stays where the noise is.
FLAT = ["--steps", "400", "--save-every", "20", "--noise", "0.5", "--pause", "0.01"]


def page(run: Run, name: str) -> str:
    html = (run.folder / name).read_text(encoding="utf-8")
    check_whole(html)
    return html


def test_a_plateau_is_reported_and_the_run_goes_on(tmp_path: Path) -> None:
    run = supervised(tmp_path, *FLAT)
    assert run.code == 0, run.said
    assert len(run.of("plateau")) == 1
    assert run.steps() == list(range(1, 401))
    assert "svg" in page(run, "analysis.html")
    assert (run.folder / "analysis.json").exists()


def test_a_plateau_ends_the_run_at_a_checkpoint(tmp_path: Path) -> None:
    run = supervised(tmp_path, *FLAT, options=["--plateau", "stop"])
    assert run.code == 3, run.said
    end = run.of("end")[-1]
    assert end["state"] == "paused"
    assert end["step"] >= run.of("plateau")[0]["step"]
    assert Path(end["checkpoint"]).name == f"checkpoint-{end['step']}"
    assert max(run.steps()) < 400
    # Called again without the wish to stop, it goes on from there to the end that it would have had.
    again = supervised(tmp_path, *FLAT, options=["--plateau", "off"])
    assert again.code == 0, again.said
    assert again.of("attempt")[-1]["begun"] == end["checkpoint"]
    assert again.final() == trained(tmp_path / "whole", *FLAT)


CHANGES = """
[[change]]
name = "a rate that is too high"
rate = "x1.2"

[[change]]
name = "a tenth of the rate"
rate = "x0.1"

[[change]]
name = "anew with more workers"
workers = 4
begin = "anew"
steps = 120
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "changes.toml").write_text(CHANGES, encoding="utf-8")
    options = ["--auto-tune", str(folder / "changes.toml"), "--trial-steps", "120"]
    # Near the rate at which it would diverge, the steps themselves keep the loss up.
    return supervised(folder, "--rate", "1.15", *FLAT, options=options)


def test_trials_keep_the_best_and_the_run_ends_with_it(tuned: Run) -> None:
    assert tuned.code == 0, tuned.said
    trials = {item["name"]: item for item in tuned.of("trial")}
    assert list(trials) == ["a rate that is too high", "a tenth of the rate", "anew with more workers"]
    assert [item["better"] for item in trials.values()] == [False, True, False]
    paused = next(item for item in tuned.of("end") if item["state"] == "paused")
    slow = tuned.folder / "trials" / "a-tenth-of-the-rate" / "output"
    rows = [json.loads(line) for line in (slow / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["step"] == paused["step"] + 1
    assert {row["learning_rate"] for row in rows} == {pytest.approx(0.115)}
    # The best goes on in its own output until all steps are done.
    assert rows[-1]["step"] == 400
    assert (slow / "final.json").exists()
    assert tuned.of("tuned")[0]["best"] == "a tenth of the rate"


def test_what_was_tried_stands_in_the_analysis_and_the_report(tuned: Run) -> None:
    for name in ("analysis.html", "report.html"):
        html = page(tuned, name)
        for change in ("a rate that is too high", "a tenth of the rate", "anew with more workers"):
            assert change in html, name


def test_trials_that_are_known_are_not_run_again(tuned: Run) -> None:
    before = (tuned.folder / "log.txt").read_bytes()
    again = supervised(
        tuned.folder.parents[1],
        *("--rate", "1.15", *FLAT),
        options=["--auto-tune", str(tuned.folder.parents[1] / "changes.toml"), "--trial-steps", "120"],
    )
    assert again.code == 0, again.said
    assert len(again.of("trial")) == 3
    assert (tuned.folder / "log.txt").read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_batch_system_ends_it_and_the_next_call_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    slow = ["--pause", "0.1"]
    process = subprocess.Popen(command_of(tmp_path, slow), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "output" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_bytes().count(b"\n") > 8):
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert not (tmp_path / "output" / "final.json").exists()
    reached = log.read_bytes().count(b"\n")
    time.sleep(0.5)
    assert log.read_bytes().count(b"\n") == reached, "the command outlived its supervisor"
    run = supervised(tmp_path, *slow)
    assert run.code == 0, run.said
    assert run.of("attempt")[-1]["begun"].endswith("checkpoint-5")
    assert run.final() == trained(tmp_path / "whole")


def test_a_killed_supervisor_leaves_a_command_that_the_next_call_waits_for(tmp_path: Path) -> None:
    slow = ["--pause", "0.1"]
    process = subprocess.Popen(command_of(tmp_path, slow), cwd=tmp_path, stdout=subprocess.DEVNULL)
    log = tmp_path / "output" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_bytes().count(b"\n") > 8):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    busy = supervised(tmp_path, *slow)
    assert busy.code == 2
    assert "in use" in busy.said
    while not (tmp_path / "output" / "final.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    run = supervised(tmp_path, *slow)
    assert run.code == 0, run.said
    assert "step 40/40" in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert run.final() == trained(tmp_path / "whole")


def test_a_run_that_is_done_is_not_begun_again(tmp_path: Path) -> None:
    first = supervised(tmp_path)
    again = supervised(tmp_path)
    assert (first.code, again.code) == (0, 0)
    assert len(again.of("attempt")) == 1
    assert "done" in again.said


def test_another_command_under_the_same_name_is_refused(tmp_path: Path) -> None:
    supervised(tmp_path)
    other = supervised(tmp_path, "--rate", "0.1")
    assert other.code == 2
    assert "another command" in other.said
    assert "--name" in other.said


def test_a_checkpoint_of_somebody_elses_is_not_taken(tmp_path: Path) -> None:
    trained(tmp_path / "output")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "output").glob("checkpoint-*")}
    run = supervised(tmp_path, "--fault", "kill", "--at", "3", "--marks", str(tmp_path / "marks"))
    assert run.code == 0, run.said
    assert [item["begun"] for item in run.of("attempt")] == [None, None]
    assert before.keys() == {*(tmp_path / "output").glob("checkpoint-*")}


def test_attempts_are_bounded(tmp_path: Path) -> None:
    often = ["--fault", "kill", "--times", "99", "--marks", str(tmp_path / "marks")]
    run = supervised(tmp_path, *often)
    assert run.code == 1
    # Step 23 is never passed: the first attempt brought it to 20, the next ones no further.
    assert len(run.of("attempt")) == 4
    assert "without a newer checkpoint" in run.said
    assert len(supervised(tmp_path, *often, options=["--attempts", "2"]).of("attempt")) == 6


def test_the_reports_in_chinese(tmp_path: Path) -> None:
    run = supervised(tmp_path, "--fault", "gpu_memory", options=["--lang", "zh"])
    assert run.code == 0, run.said
    html = page(run, "report.html")
    assert 'lang="zh-CN"' in html
    assert "受监护的训练" in html
