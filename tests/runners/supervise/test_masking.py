"""What a command line must not show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runners.supervise import masking
from runners.supervise.masking import hidden, hidden_in, masked
from tests.runners.supervise.supervised import command_of


@pytest.mark.parametrize(("word", "shown"), [
    ("WANDB_API_KEY=abc", "WANDB_API_KEY=***"),
    ("hf_hub_token=abc", "hf_hub_token=***"),
    ("--hf-token=abc", "--hf-token=***"),
    ("trainer.secret=a=b", "trainer.secret=***"),
    ("hf_" + "a1" * 10, "***"),
    ("https://user:pass@mirror/x", "https://***@mirror/x"),
    ("--max_new_tokens=64", "--max_new_tokens=64"),
    ("tokenizer=fast", "tokenizer=fast"),
    ("--model_name_or_path=hf_models/tiny", "--model_name_or_path=hf_models/tiny"),
])  # fmt: skip
def test_a_word(word: str, shown: str) -> None:
    assert masked([word]) == [shown]


def test_the_word_behind_an_option() -> None:
    words = ["train", "--hf_token", "abc", "--tokenizer", "fast", "--api-key", "--flag"]
    assert masked(words) == ["train", "--hf_token", "***", "--tokenizer", "fast", "--api-key", "--flag"]


@pytest.mark.parametrize(("text", "shown"), [
    ("token hf_" + "a1" * 10 + " is used", "token *** is used"),
    ("{'hub_token': 'abcdef', 'lr': 1}", "{'hub_token': '***', 'lr': 1}"),
    ("api_key=abc, next", "api_key=***, next"),
    ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ("eos_token='<|im_end|>' max_new_tokens: 64", "eos_token='<|im_end|>' max_new_tokens: 64"),
    ("https://user:pass@mirror/x and /a:b@c", "https://***@mirror/x and /a:b@c"),
    ("github ghp_" + "Ab1" * 12, "github ***"),
])  # fmt: skip
def test_a_text(text: str, shown: str) -> None:
    assert hidden(text) == shown


def test_values_that_were_seen_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_values", set())
    masking.learn(
        ["env", "HF_TOKEN=first-value", "train", "--token", "auto"], {"X_SECRET": "other-value", "HOME": "/root/x"}
    )
    assert hidden_in({"why": "first-value!", "lines": ["other-value", 3], "set": {"A": "auto /root/x"}}) == {
        "why": "***!", "lines": ["***", 3], "set": {"A": "auto /root/x"}}  # fmt: skip


def test_nothing_of_a_run_holds_a_secret_that_was_on_its_line_or_in_its_environment(tmp_path: Path) -> None:
    """Whoever is shown a log, a decision or a report is shown no token, also where the command itself prints it."""
    secrets = {"line": "opensesame-line", "env": "opensesame-env", "around": "opensesame-around"}
    said = tmp_path / "said.txt"
    said.write_text("\n".join(["OddError: logged in with", *secrets.values()]) + f"\nOddError: {secrets['env']}\n")
    words = command_of(tmp_path, ["--hub-token", secrets["line"], "--fault", "says", "--marks", str(tmp_path / "marks"),
                                  "--says", str(said)])  # fmt: skip
    at = words.index("--") + 1
    words[at:at] = ["env", f"HF_TOKEN={secrets['env']}"]
    around = {"PATH": "/usr/bin:/bin", "WANDB_API_KEY": secrets["around"]}
    run = subprocess.run(words, cwd=tmp_path, env=around, capture_output=True, text=True, timeout=120)
    folder = tmp_path / "work" / "run"
    assert run.returncode == 1, run.stdout + run.stderr
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "OddError: logged in with" in log
    assert log.count("***") >= 4
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"log.txt", "decisions.jsonl", "report.html"}
    for path in files:
        assert b"opensesame" not in path.read_bytes(), path
    assert "opensesame" not in run.stdout + run.stderr
    assert folder.stat().st_mode & 0o077 == 0
    told = [sys.executable, words[1], "supervise", "--dry-run", str(said), "--lang", "en"]
    dry = subprocess.run(told, env={**around, "HF_TOKEN": secrets["env"]}, capture_output=True, text=True, check=True)
    assert "OddError: ***" in dry.stdout
    assert secrets["env"] not in dry.stdout
