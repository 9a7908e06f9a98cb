"""The runner around its training: what it needs, how often it probes, and what it says where nothing was probed."""

import json
from types import SimpleNamespace

import pytest

from runners import infodyn_llamafactory as runner


@pytest.fixture
def grafted(tmp_path, monkeypatch):
    """A checkout that looks grafted, and a training that leaves a schedule and nothing probed; the commands it ran."""
    (tmp_path / "checkout" / "src" / "llamafactory" / "infodyn").mkdir(parents=True)
    (tmp_path / "analyst").touch()
    commands = []

    def train(command, **options):
        commands.append(command)
        (tmp_path / "home" / "run").mkdir()
        choice = {"task": "sort", "kind": "cold", "reason": "never trained"}
        (tmp_path / "home" / "run" / "schedule.jsonl").write_text(json.dumps({"step": 0, "choice": choice}) + "\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(runner, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(runner, "ANALYST", tmp_path / "analyst")
    monkeypatch.setattr(runner, "NEEDED", ("json",))
    monkeypatch.setattr(runner, "write_model", lambda folder, seed: None)
    monkeypatch.setattr(runner.subprocess, "run", train)
    monkeypatch.setattr(runner.sys, "argv", ["infodyn_llamafactory.py", str(tmp_path / "home"), "--steps", "60"])
    return commands


def test_a_python_without_torch_is_told_the_environment(grafted, monkeypatch, capsys):
    monkeypatch.setattr(runner, "NEEDED", ("json", "no_such_package"))
    assert runner.main() == 2
    said = capsys.readouterr().err
    assert "no_such_package" in said
    assert ".venvs/LLaMA-Factory/bin/python" in said
    assert not grafted


def test_a_run_that_ended_before_a_probe_says_so_and_is_not_analysed(grafted, tmp_path, capsys):
    assert runner.main() == 0
    assert "no analysis: all tasks were grokked" in capsys.readouterr().out
    assert len(grafted) == 1
    made = json.loads((tmp_path / "home" / "train.yaml").read_text(encoding="utf-8"))
    assert made["probes"]["save_every_n_epochs"] == 1


@pytest.mark.parametrize(
    ("steps", "chunk_steps", "expected"),
    [(480, 20, 4), (280, 20, 4), (240, 20, 3), (120, 20, 2), (60, 20, 1), (20, 20, 1), (10, 20, 1), (480, 200, 1)],
)
def test_every_run_that_is_as_long_as_planned_is_probed(steps, chunk_steps, expected):
    every = runner.probed_every(steps, chunk_steps)
    assert every == expected
    assert every <= max(1, -(-steps // chunk_steps))


def test_steps_below_one_are_refused(grafted, monkeypatch, capsys):
    monkeypatch.setattr(runner.sys, "argv", ["infodyn_llamafactory.py", "home", "--chunk-steps", "0"])
    with pytest.raises(SystemExit, match="2"):
        runner.main()
    assert "at least 1" in capsys.readouterr().err
