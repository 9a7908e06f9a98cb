"""The demo's runs: off says nothing that the plain upstream would not know; the unchanged is not run again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from demo.runs import METHODS, Run, RunFailed, all_runs, fell, losses, new_files, state_of, train, write_config

CLI = """#!/bin/sh
# Stands in for the upstream's command: counts its calls and writes the log that the demo reads.
out=$(sed -n 's/^output_dir: //p' "$2")
mkdir -p "$out"
echo x >> "$(dirname "$0")/calls"
echo '{"current_steps": 2, "loss": 6.0}' > "$out/trainer_log.jsonl"
echo '{"current_steps": 4, "loss": 1.0}' >> "$out/trainer_log.jsonl"
echo '{"current_steps": 4}' >> "$out/trainer_log.jsonl"
"""


@pytest.fixture
def cli(tmp_path: Path) -> Path:
    path = tmp_path / "cli"
    path.write_text(CLI)
    path.chmod(0o755)
    return path


def calls(cli: Path) -> int:
    return len((cli.parent / "calls").read_text().splitlines())


def test_off_and_on_differ_in_the_switches_alone(tmp_path: Path) -> None:
    off, on = (Run("text", state, tmp_path) for state in (False, True))
    assert off.settings().keys() & METHODS.keys() == set()
    on_settings = on.settings()
    assert {key for key in on_settings if on_settings[key] != off.settings().get(key)} == {*METHODS, "output_dir"}
    assert [run.name for run in all_runs(tmp_path)] == ["text-off", "text-on", "images-off", "images-on"]


def test_a_run_is_kept_until_its_configuration_or_its_surroundings_change(tmp_path: Path, cli: Path) -> None:
    run = Run("text", False, tmp_path)
    first = train(run, cli, "state")
    assert first["losses"] == [[2, 6.0], [4, 1.0]]
    assert train(run, cli, "state") == first
    assert calls(cli) == 1
    train(run, cli, "another state")
    assert calls(cli) == 2


def test_a_failed_run_says_why_and_is_run_again(tmp_path: Path, cli: Path) -> None:
    good = cli.read_text()
    cli.write_text("#!/bin/sh\necho out of luck\nexit 7\n")
    run = Run("text", True, tmp_path)
    with pytest.raises(RunFailed, match=r"ended with 7(.|\n)*out of luck"):
        train(run, cli, "state")
    cli.write_text(good)
    assert train(run, cli, "state")["losses"][-1] == [4, 1.0]


def test_losses_reads_only_rows_that_have_one(tmp_path: Path) -> None:
    log = tmp_path / "trainer_log.jsonl"
    log.write_text('{"current_steps": 1, "loss": 2.5}\n\n{"current_steps": 1, "eval_loss": 9}\n')
    assert losses(log) == [[1, 2.5]]


@pytest.mark.parametrize(("last", "expected"), [(2.9, True), (3.0, False), (6.5, False)])
def test_fell(last: float, expected: bool) -> None:
    assert fell({"losses": [[1, 6.0], [2, last]]}) is expected


def test_the_state_follows_every_edit_and_every_new_file(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "src").mkdir(parents=True)
    source = checkout / "src" / "a.py"
    source.write_text("x = 1\n")
    git = ["git", "-C", str(checkout), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    states = [state_of(checkout)]
    assert new_files(checkout) == []
    source.write_text("x = 2\n")
    states.append(state_of(checkout))
    # A graft may list its files in the repository's own exclude file: they still count.
    (checkout / ".git" / "info").mkdir(exist_ok=True)
    (checkout / ".git" / "info" / "exclude").write_text("/src/new.py\n")
    (checkout / "src" / "new.py").write_text("y = 1\n")
    states.append(state_of(checkout))
    assert new_files(checkout) == [checkout / "src" / "new.py"]
    (checkout / "src" / "__pycache__").mkdir()
    (checkout / "src" / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert state_of(checkout) == states[-1]
    other = tmp_path / "other"
    other.write_text("z")
    states.append(state_of(checkout, other))
    assert len(set(states)) == 4


def test_the_configuration_is_what_the_settings_say(tmp_path: Path) -> None:
    run = Run("images", True, tmp_path)
    lines = dict(line.split(": ", 1) for line in write_config(run).splitlines())
    assert lines == run.settings()
    assert json.loads(lines["max_steps"]) == 60
