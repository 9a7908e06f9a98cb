"""Whole sessions: a plateau, trials, interruptions, and what is left for the next call."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pages import check_whole
from tests.runners.supervise.supervised import Run, command_of, supervised, trained

# A line cannot fit the curve in the data: the loss falls for some 250 of 800 steps, and stays at what it cannot fit.
FLAT = ["--steps", "800", "--save-every", "20", "--rate", "0.006", "--batch", "32", "--curved", "2", "--pause", "0.005"]


def page(run: Run, name: str) -> str:
    html = (run.folder / name).read_text(encoding="utf-8")
    check_whole(html)
    return html


def test_a_plateau_is_reported_and_the_run_goes_on(tmp_path: Path) -> None:
    run = supervised(tmp_path, *FLAT)
    assert run.code == 0, run.said
    assert len(run.of("plateau")) == 1
    assert run.steps() == list(range(1, 801))
    assert "svg" in page(run, "analysis.html")
    assert (run.folder / "analysis.json").exists()


def test_a_plateau_is_reported_once_also_where_the_run_dies_after_it(tmp_path: Path) -> None:
    run = supervised(tmp_path, *FLAT, "--fault", "kill", "--at", "600", "--marks", str(tmp_path / "marks"))
    assert run.code == 0, run.said
    assert len(run.of("attempt")) == 2
    (said,) = run.of("plateau")
    assert said["step"] < 600
    assert run.said.count("the loss has stopped falling; slope") == 1


def test_a_plateau_ends_the_run_at_a_checkpoint(tmp_path: Path) -> None:
    run = supervised(tmp_path, *FLAT, options=["--plateau", "stop"])
    assert run.code == 3, run.said
    end = run.of("end")[-1]
    assert end["state"] == "paused"
    assert end["step"] >= run.of("plateau")[0]["step"]
    assert Path(end["checkpoint"]).name == f"checkpoint-{end['step']}"
    assert max(run.steps()) < 800
    # Called again without the wish to stop, it goes on from there to the end that it would have had.
    again = supervised(tmp_path, *FLAT, options=["--plateau", "off"])
    assert again.code == 0, again.said
    assert again.of("attempt")[-1]["begun"] == end["checkpoint"]
    assert again.final() == trained(tmp_path / "whole", *FLAT)


CHANGES = """
[[change]]
name = "ten times the rate"
rate = "x10"

[[change]]
name = "three polynomials"
rank = 3
begin = "anew"
steps = 400

[[change]]
name = "no workers"
workers = 0
"""
NAMES = ["ten times the rate", "three polynomials", "no workers"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "changes.toml").write_text(CHANGES, encoding="utf-8")
    options = ["--auto-tune", str(folder / "changes.toml"), "--trial-steps", "100"]
    return supervised(folder, *FLAT, options=options)


def rows_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def home_of(run: Run, change: str) -> Path:
    return next(
        path for path in (run.folder / "trials").iterdir() if re.fullmatch(f"{change}-[0-9a-f]{{6}}", path.name)
    )


def test_trials_keep_the_best_and_the_run_ends_with_it(tuned: Run) -> None:
    assert tuned.code == 0, tuned.said
    trials = tuned.of("trial")
    assert [item["name"] for item in trials] == NAMES
    assert [item["better"] for item in trials] == [False, True, False], tuned.said
    assert [item["against"] for item in trials] == ["as given", "as given", "three polynomials"]
    assert tuned.of("tuned")[0]["best"] == "three polynomials"
    paused = next(item for item in tuned.of("end") if item["state"] == "paused")
    faster = rows_of(home_of(tuned, "ten-times-the-rate") / "output")
    assert faster[0]["step"] == paused["step"] + 1
    assert {row["learning_rate"] for row in faster} == {0.06}
    # Its control went on from the same checkpoint in the run's own output, over the same steps at least.
    own = [row["step"] for row in rows_of(tuned.output)]
    assert own[-1] >= paused["step"] + 100
    best = home_of(tuned, "three-polynomials") / "output"
    # Begun anew, gone on with as the control of the last trial, and then to the end, in its own output.
    assert rows_of(best)[0]["step"] == 1
    assert rows_of(best)[-1]["step"] == 800
    assert rows_of(best)[-1]["loss"] < 0.05 < rows_of(tuned.output)[-1]["loss"]
    # What changes nothing is as good as its control, to the last bit, over the same data.
    same = trials[2]
    assert same["loss"] == same["opponent"]
    assert (best / "final.json").exists()
    assert not (tuned.output / "final.json").exists()


def test_what_was_tried_stands_in_the_analysis_and_the_report(tuned: Run) -> None:
    for name in ("analysis.html", "report.html"):
        html = page(tuned, name)
        for change in NAMES:
            assert change in html, name


def test_the_report_tells_where_the_best_is_and_draws_it(tuned: Run) -> None:
    html = page(tuned, "report.html")
    assert f"Output: {tuned.folder / 'trials' / 'three-polynomials'}" in html
    assert "three polynomials 0." in html
    # The analysis stays that of the plateau at which the trials began.
    assert len(tuned.of("plateau")) == 1


NOTHING = """
[[change]]
name = "other workers"
workers = 0

[[change]]
name = "too short"
rate = "x0.5"
steps = 30
"""


def test_where_no_change_wins_the_run_goes_on_from_its_control_and_a_stop_does_not_lose_that(tmp_path: Path) -> None:
    """The best dies of what no table knows, and is called again, without the list: it goes on, the command does not."""
    (tmp_path / "changes.toml").write_text(NOTHING, encoding="utf-8")
    fatal = ["--fault", "odd", "--at", "700"]
    options = ["--auto-tune", str(tmp_path / "changes.toml"), "--trial-steps", "100"]
    run = supervised(tmp_path, *FLAT, *fatal, options=options)
    assert run.code == 1, run.said
    first, refused = run.of("trial")
    assert not first["better"]
    assert "30 steps give 30 values of the loss, of 48 that it takes" in refused["why"]
    tuned = run.of("tuned")[0]
    paused = next(item for item in run.of("end") if item["state"] == "paused")
    assert tuned["best"] == "as given"
    assert tuned["step"] >= paused["step"] + 100
    attempts = len(run.of("attempt"))
    again = supervised(tmp_path, *FLAT, *fatal)
    assert again.code == 1
    # In the main run nothing was begun: what goes on is the best.
    assert len(again.of("attempt")) == attempts
    assert len(again.of("tuned")) == 1
    assert "goes on with the best: as given" in again.said
    assert max(again.steps()) == 699


def test_trials_that_are_known_are_not_run_again(tuned: Run) -> None:
    before = (tuned.folder / "log.txt").read_bytes()
    # As a supervisor leaves it that was killed between the last trial and the analysis.
    decisions = tuned.folder / "decisions.jsonl"
    kept = decisions.read_text(encoding="utf-8").splitlines(keepends=True)
    last = next(number for number, line in enumerate(kept) if json.loads(line)["kind"] == "tuned")
    decisions.write_text("".join(kept[:last]), encoding="utf-8")
    (tuned.folder / "analysis.html").unlink()
    again = supervised(
        tuned.folder.parents[1],
        *FLAT,
        options=["--auto-tune", str(tuned.folder.parents[1] / "changes.toml"), "--trial-steps", "100"],
    )
    assert again.code == 0, again.said
    assert len(again.of("trial")) == 3
    assert (tuned.folder / "log.txt").read_bytes() == before
    assert all(change in page(tuned, "analysis.html") for change in NAMES)


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
    assert "无人值守训练" in html


def test_a_run_that_died_unsupervised_is_gone_on_with_where_that_is_asked_for(tmp_path: Path) -> None:
    dying = ["--fault", "assert", "--at", "23"]
    with pytest.raises(subprocess.CalledProcessError):
        trained(tmp_path / "output", *dying)
    run = supervised(tmp_path, options=["--adopt"])
    assert run.code == 0, run.said
    assert [Path(item["begun"]).name for item in run.of("attempt")] == ["checkpoint-20"]
    assert run.final() == trained(tmp_path / "whole")


def test_an_output_below_a_repository_is_refused_unless_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    refused = supervised(tmp_path)
    assert refused.code == 2
    assert "--allow-below-repository" in refused.said
    assert not refused.output.exists()
    assert supervised(tmp_path, options=["--allow-below-repository"]).code == 0


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    words = command_of(tmp_path, [])
    words[words.index("--") + 1] = "torchrun"
    bare = {**os.environ, "PATH": "/usr/bin:/bin"}
    run = subprocess.run(words, cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert run.returncode == 2
    assert "torchrun is not on PATH" in run.stderr


def test_two_names_cannot_write_to_one_output(tmp_path: Path) -> None:
    slow = ["--pause", "0.1"]
    process = subprocess.Popen(command_of(tmp_path, slow), cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        log = tmp_path / "output" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not log.exists():
            time.sleep(0.05)
        other = command_of(tmp_path, slow)
        other[other.index("--name") + 1] = "other"
        refused = subprocess.run(other, cwd=tmp_path, capture_output=True, text=True)
        assert refused.returncode == 2
        assert "in use" in refused.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_no_command_behind(tmp_path: Path, second: signal.Signals) -> None:
    process = subprocess.Popen(command_of(tmp_path, ["--fault", "deaf", "--pause", "0.1"]), cwd=tmp_path)
    log = tmp_path / "output" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not log.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(second)
    assert process.wait(90) == 130
    rows = log.read_bytes()
    time.sleep(0.5)
    assert log.read_bytes() == rows


def test_a_terminal_that_goes_away_ends_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(command_of(tmp_path, ["--pause", "0.05"]), cwd=tmp_path)
    log = tmp_path / "output" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not log.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert (tmp_path / "output" / "final.json").exists()


def test_an_end_before_the_last_step_is_not_taken_for_done(tmp_path: Path) -> None:
    for name in ("once", "always"):
        (tmp_path / name).mkdir()
    once = supervised(tmp_path / "once", "--fault", "leave", "--at", "12", "--marks", str(tmp_path / "marks"))
    assert once.code == 0, once.said
    assert once.remedies == ["ended_early/resume"]
    assert once.final() == trained(tmp_path / "whole")
    always = supervised(
        tmp_path / "always", "--fault", "leave", "--at", "12", "--times", "9", "--marks", str(tmp_path / "more")
    )
    assert always.code == 1
    assert "ends by itself at step 11 of 40" in always.said


def test_a_configuration_that_was_edited_between_calls_is_named(tmp_path: Path) -> None:
    supervised(tmp_path, "--fault", "assert")
    decided = tmp_path / "work" / "run" / "decisions.jsonl"
    text = decided.read_text(encoding="utf-8")
    edited = [json.loads(line) for line in text.splitlines()]
    next(item for item in edited if item["kind"] == "settings")["values"]["fault"] = "another"
    decided.write_text("".join(json.dumps(item) + "\n" for item in edited), encoding="utf-8")
    again = supervised(tmp_path, "--fault", "assert")
    assert "edited since the last call: fault" in again.said


def test_a_quiet_command_with_a_curve_has_not_hung(tmp_path: Path) -> None:
    run = supervised(tmp_path, "--fault", "quiet", "--pause", "0.15", options=["--hang-after", "2"])
    assert run.code == 0, run.said
    assert run.remedies == []
