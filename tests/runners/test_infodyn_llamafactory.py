"""The runner around its training: what it needs, how often it probes, and what it says where nothing was probed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from runners import going_on as going
from runners import infodyn_llamafactory as runner
from runners.infodyn_toy import probed_every
from runners.supervise.checkpoints import Checkpoint

TRAIN = """#!{python}
# Stands in for llamafactory: notes its arguments, and leaves what the runner looks at.
import json, pathlib, sys
run = pathlib.Path(json.loads(pathlib.Path(sys.argv[2]).read_text())["output_dir"])
with pathlib.Path({notes!r}).open("a") as notes:
    notes.write(json.dumps(sys.argv[1:]) + chr(10))
if pathlib.Path({broken!r}).exists():
    sys.exit("CUDA error: device-side assert")
choice = {{"task": "sort", "kind": "cold", "reason": "never trained"}}
(run / "schedule.jsonl").write_text(json.dumps({{"step": 0, "choice": choice}}) + chr(10))
(run / "train_results.json").write_text("{{}}")
"""


class Grafted:
    """A checkout that looks grafted, and a training that leaves a schedule and nothing probed."""

    def __init__(self, root: Path) -> None:
        (root / "checkout" / "src" / "llamafactory" / "infodyn").mkdir(parents=True)
        (root / "analyst").touch()
        self.home, self.notes, self.broken, self.cli = (
            root / n for n in ("home", "notes", "broken", "llamafactory-cli")
        )
        self.cli.write_text(TRAIN.format(python=sys.executable, notes=str(self.notes), broken=str(self.broken)))
        self.cli.chmod(0o755)

    def commands(self) -> list[list[str]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []


@pytest.fixture
def grafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grafted:
    made = Grafted(tmp_path)

    def write_model(folder: Path, seed: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(runner, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(runner, "ANALYST", tmp_path / "analyst")
    monkeypatch.setattr(runner, "CLI", made.cli)
    monkeypatch.setattr(runner, "NEEDED", ("pytest",))
    monkeypatch.setattr(runner, "write_model", write_model)
    monkeypatch.setattr(runner.sys, "argv", ["infodyn_llamafactory.py", str(made.home), "--steps", "60"])
    return made


def test_a_python_without_torch_is_told_the_environment(grafted, monkeypatch, capsys):
    monkeypatch.setattr(runner, "NEEDED", ("json", "no_such_package"))
    assert runner.main() == 2
    said = capsys.readouterr().err
    assert "no_such_package" in said
    assert ".venvs/LLaMA-Factory/bin/python" in said
    assert not grafted.commands()


def test_a_run_that_ended_before_a_probe_says_so_and_is_not_analysed(grafted, tmp_path, capsys):
    assert runner.main() == 0
    assert "no analysis: all tasks were grokked" in capsys.readouterr().out
    assert len(grafted.commands()) == 1
    made = json.loads((tmp_path / "home" / "train.yaml").read_text(encoding="utf-8"))
    assert made["probes"]["save_every_n_epochs"] == 1


def test_a_run_that_is_done_is_kept_and_one_that_failed_begins_anew_without_a_checkpoint(grafted, capsys):
    grafted.broken.touch()
    assert runner.main() == 1
    assert "device-side assert" in capsys.readouterr().out
    (grafted.home / "run" / "left over").touch()
    grafted.broken.unlink()
    assert runner.main() == 0
    assert "train: not finished before, begins anew" in capsys.readouterr().out
    assert not (grafted.home / "run" / "left over").exists()
    assert runner.main() == 0
    assert "train: kept" in capsys.readouterr().out
    assert len(grafted.commands()) == 2
    runner.sys.argv[-1] = "80"
    assert runner.main() == 0
    assert "train: changed: input configuration" in capsys.readouterr().out


def test_it_goes_on_from_the_last_whole_checkpoint_and_puts_later_ones_aside(grafted, monkeypatch, capsys):
    grafted.broken.touch()
    assert runner.main() == 1
    for step in (20, 40):
        (grafted.home / "run" / f"checkpoint-{step}").mkdir()
    whole = Checkpoint(grafted.home / "run" / "checkpoint-20", 20)
    monkeypatch.setattr(going, "last_good", lambda command, say: whole)
    grafted.broken.unlink()
    assert runner.main() == 0
    assert "train: not finished before, goes on" in capsys.readouterr().out
    plain, resumed = grafted.commands()
    assert resumed[:2] == plain
    assert sorted(resumed[2:]) == ["overwrite_output_dir=false", f"resume_from_checkpoint={whole.path}"]
    assert whole.path.is_dir()
    assert not (grafted.home / "run" / "checkpoint-40").exists()


def test_a_folder_of_somebody_s_own_and_a_full_disk_are_refused(
    grafted: Grafted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = grafted.home / "run" / "weights"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert runner.main() == 2
    assert "holds files that no run of this kind wrote" in capsys.readouterr().err
    assert weights.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=1))
    assert runner.main([str(tmp_path / "new")]) == 2
    assert "another disk with --work" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert grafted.commands() == []


def test_without_a_folder_it_lies_where_runs_lie(
    grafted: Grafted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_WORK", str(tmp_path / "runs"))
    assert runner.main([]) == 0
    home = tmp_path / "runs" / "infodyn_llamafactory"
    assert grafted.commands() == [["train", str(home / "train.yaml")]]
    assert json.loads((home / "train.yaml").read_text(encoding="utf-8"))["output_dir"] == str(home / "run")


@pytest.mark.parametrize(
    ("steps", "chunk_steps", "expected"),
    [(480, 20, 4), (280, 20, 4), (240, 20, 3), (120, 20, 2), (60, 20, 1), (20, 20, 1), (10, 20, 1), (480, 200, 1)],
)
def test_every_run_that_is_as_long_as_planned_is_probed(steps, chunk_steps, expected):
    every = probed_every(steps, chunk_steps)
    assert every == expected
    assert every <= max(1, -(-steps // chunk_steps))


def test_steps_below_one_are_refused(grafted, monkeypatch, capsys):
    monkeypatch.setattr(runner.sys, "argv", ["infodyn_llamafactory.py", "home", "--chunk-steps", "0"])
    with pytest.raises(SystemExit, match="2"):
        runner.main()
    assert "at least 1" in capsys.readouterr().err
