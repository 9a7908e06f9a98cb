"""The page of a supervised run with every kind of decision, drawn by a browser in both languages."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from look.words import LANGUAGES, Words
from runners.supervise import masking, report
from runners.supervise.cause_table import table
from runners.supervise.command import Command, families, recognise
from runners.supervise.decisions import Decisions
from runners.supervise.loop import INTERRUPTED, STOPPED
from tests.browser import Browser
from tests.pages import Reader, check_drawn, check_whole, needs_chromium
from tests.runners.supervise.supervised import HERE, TRAINER

CAUSES = table()
SAID = "CUDA out of memory. Tried to allocate <2.00 GiB>"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    words = [sys.executable, str(TRAINER), "--output", str(tmp_path / "output")]
    return recognise(words, tmp_path, {}, families(HERE / "trainer.toml"))


@pytest.fixture
def decisions(tmp_path: Path, command: Command) -> Decisions:
    """Out of memory, then of what nobody knows; trials in between, and an end on request."""
    command.output.mkdir()
    rows = [json.dumps({"step": step, "loss": 2.0 / step}) for step in range(1, 41)]
    (command.output / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    made = Decisions(tmp_path)
    begun = {"command": command.shown(), "output": str(command.output), "metrics": list(command.metrics), "offset": 0}
    made.add("start", "first attempt", kept=[])
    made.add("attempt", "as the command says", attempt=1, begun=None, **begun)
    made.add(
        "remedy",
        "batch 8 to 4, accumulation 1 to 2",
        cause="gpu_out_of_memory",
        remedy="halve",
        lines=[SAID, "Traceback"],
        settings={"batch": "4", "accumulation": "2"},
        environment={"MUJOCO_GL": "egl"},
    )
    made.add("attempt", "from checkpoint-20", attempt=2, begun="/runs/checkpoint-20", **begun)
    made.add("plateau", "from step 20 to 30 the loss fell by less than a third", step=30, report="analysis.html")
    made.add("trial", "loss 1.2: the best so far", name="half the rate")
    made.add("control", "loss 1.3", name="half the rate, on")
    made.add("tuned", "the best is half the rate", best="half the rate")
    made.add("interrupted", "while half the rate ran")
    made.add("end", "asked to end", state=INTERRUPTED)
    made.add("afresh", "it had been interrupted, and was called again")
    made.add("attempt", "from checkpoint-30", attempt=3, begun="/runs/checkpoint-30", **begun)
    made.add("stop", "exit code 7, and no known cause", cause="unknown", lines=["boom"])
    made.add("end", "exit code 7, and no known cause", state=STOPPED)
    return made


def test_every_attempt_has_its_end_and_its_remedy(tmp_path: Path, command: Command, decisions: Decisions) -> None:
    html = report.write(tmp_path, command, decisions, CAUSES, "en").read_text(encoding="utf-8")
    check_whole(html)
    rows = Reader(html).rows
    says = next(cause.says for cause in CAUSES if cause.name == "gpu_out_of_memory")
    attempts = [[row[0], *row[2:]] for row in rows[1:4]]
    assert attempts == [
        ["1", "the beginning", says, f"2{SAID}\nTraceback", "batch 8 to 4, accumulation 1 to 2"],
        ["2", "checkpoint-20", "", "", "interrupted"],
        ["3", "checkpoint-30", "unknown cause", "1boom", "stopped"],
    ]
    assert rows[5:8] == [["batch", "4"], ["accumulation", "2"], ["MUJOCO_GL", "egl"]]
    assert [row[1] for row in rows[9:]] == ["plateau", "trial", "control", "tuned", "interrupted", "afresh"]
    # 40 rows of the loss, the last 2 / 40.
    course = re.findall(r'class="line series1" d="M([^"]+)"', html)
    assert [len(each.split("L")) for each in course] == [40]
    assert ">loss 0.05<" in html


def test_what_was_moved_aside_is_counted_and_secrets_are_hidden(
    tmp_path: Path, command: Command, decisions: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking, "_values", {"opensesame1"})
    decisions.add("stop", "refused: opensesame1", cause="unknown", lines=["with opensesame1"])
    assert "moved aside" not in report.write(tmp_path, command, decisions, CAUSES, "en").read_text(encoding="utf-8")
    for step in (5, 10):
        (command.output / f"damaged-checkpoint-{step}").mkdir()
        (command.output / f"damaged-checkpoint-{step}" / "x").write_bytes(bytes(1000))
    html = report.write(tmp_path, command, decisions, CAUSES, "en").read_text(encoding="utf-8")
    assert "2 checkpoints were moved aside and take " in html
    assert "damaged-checkpoint-5, damaged-checkpoint-10" in html
    assert "opensesame" not in html
    assert "opensesame" not in (tmp_path / "decisions.jsonl").read_text(encoding="utf-8")


@needs_chromium
def test_a_browser_draws_it_in_both_languages(
    browser: Browser, tmp_path: Path, command: Command, decisions: Decisions
) -> None:
    pages = {
        lang: report.write(tmp_path, command, decisions, CAUSES, lang).read_text(encoding="utf-8") for lang in LANGUAGES
    }
    assert Words("zh")("The run was stopped: no remedy is left.") in pages["zh"]
    check_drawn(browser, pages, tmp_path, "supervised")
