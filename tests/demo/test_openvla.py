"""The demo's openvla part: which tree runs, what is kept, and a failure that is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from demo import openvla, openvla_losses, openvla_tree, trees
from demo.openvla_tree import ENVIRONMENT, Tree, make_materials, standin_tree, why_not_real
from demo.runs import RunFailed
from runners import openvla_gradient_surgery as runner
from runners.openvla_options import plan_of
from runners.places import resolve

ROOT = Path(__file__).resolve().parents[2]
APPLIED = {"state": "applied", "tree_proven": True}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "openvla" / "vla-scripts").mkdir(parents=True)
    return tmp_path / "openvla"


def test_the_real_tree_runs_where_nothing_is_wanting(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "venv"
    assert why_not_real(APPLIED, tmp_path / "none", environment).endswith("none is not there")
    assert why_not_real(None, checkout, environment).endswith("is not there")
    assert "unapplied" in why_not_real({**APPLIED, "state": "unapplied"}, checkout, environment)
    assert "not proven" in why_not_real({**APPLIED, "tree_proven": False}, checkout, environment)
    assert "is not built" in why_not_real(APPLIED, checkout, environment)
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(openvla_tree, "REAL_MODULES", ("json", "no_such_module"))
    assert why_not_real(APPLIED, checkout, environment).endswith("lacks no_such_module")
    monkeypatch.setattr(openvla_tree, "REAL_MODULES", ("json",))
    assert why_not_real(APPLIED, checkout, environment) == ""


def test_a_stand_in_that_cannot_run_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvla_tree, "STANDIN_MODULES", ("json", "no_such_module"))
    with pytest.raises(RunFailed, match=r"lacks no_such_module; `make demo`"):
        standin_tree(tmp_path, Path(sys.executable), "why")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setattr(openvla_tree, "STANDIN_MODULES", ("json",))
    return standin_tree(tmp_path / "home", Path(sys.executable), "upstreams/openvla is not there")


def test_the_stand_in_is_grafted_and_made_again_with_the_same_commit(standin: Tree, tmp_path: Path) -> None:
    assert not standin.real
    assert "surgery.before_step" in (standin.checkout / "vla-scripts" / "finetune.py").read_text(encoding="utf-8")
    assert "surgery = attach(" in trees.diff_of(standin.checkout)
    commit = openvla.commit_of(standin.checkout)
    again = standin_tree(tmp_path / "home", Path(sys.executable), "why")
    assert openvla.commit_of(again.checkout) == commit
    assert commit[0]


def test_the_runner_takes_the_command_and_leaves_the_evaluation_out(standin: Tree, tmp_path: Path) -> None:
    home = tmp_path / "home"
    materials = openvla.materials_of(standin, home)
    (materials / "toy-7b").mkdir(parents=True)
    (materials / "toy-7b" / "config.json").write_text("{}", encoding="utf-8")
    (materials / "data" / openvla_tree.DATASET).mkdir(parents=True)
    options = runner.parser().parse_args(openvla.command_of(standin, home)[4:])
    plan = plan_of(options, resolve(options, runner.NAME))
    assert [arm.name for arm in plan.arms] == ["baseline", "method"]
    assert (plan.cpu, plan.seeds, plan.home) == (True, [0], openvla.work_of(standin, home).absolute())
    assert "eval" not in options.stages.split(",")


def test_the_real_settings_are_options_of_the_native_commands() -> None:
    settings = (*openvla_tree.real_tree().settings, *openvla.SETTINGS)
    assert {one.split(".")[0] for one in settings} == {"probe", "icsm", "finetune", "surgery"}
    assert openvla_tree.real_tree().real


def test_materials_are_kept_until_their_code_changes(tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_text("import sys, pathlib; p = pathlib.Path(sys.argv[1]); (p / 'x').write_text('1')", encoding="utf-8")
    tree = Tree(tmp_path, tmp_path, Path(sys.executable), "why", [sys.executable, str(script)], script, "", "", "", ())
    folder = tmp_path / "made"
    make_materials(tree, folder)
    (folder / "x").write_text("kept", encoding="utf-8")
    make_materials(tree, folder)
    assert (folder / "x").read_text(encoding="utf-8") == "kept"
    script.write_text("raise SystemExit('out of luck')", encoding="utf-8")
    with pytest.raises(RunFailed, match="out of luck"):
        make_materials(tree, folder)
    assert not (folder / "made-with.txt").exists()


def test_a_failed_stage_is_shown_from_where_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "    probe: done in 2 s\n    icsm/x: failed: the command ended\nValueError: bad\n" + "later\n" * 100
    command = [sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"]
    with pytest.raises(RunFailed) as error:
        openvla.run(command, tmp_path / "log")
    assert "icsm/x: failed: the command ended\nValueError: bad\nlater" in str(error.value)
    assert "probe" not in str(error.value)
    assert capsys.readouterr().out == "    probe: done in 2 s\n"
    assert (tmp_path / "log").read_text(encoding="utf-8").startswith(said)


def test_losses_are_read_from_what_the_stand_in_for_wandb_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="0 offline runs"):
        openvla_losses.losses(tmp_path)
    rows = [{"init": {}}, {"step": 0, "train_loss": 3.5}, {"step": 10, "train_loss": 1.25}]
    (folder / "wandb.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert openvla_losses.losses(tmp_path) == [[0, 3.5], [10, 1.25]]
    (folder / "wandb.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="no train_loss"):
        openvla_losses.losses(tmp_path)


LOG = """
import wandb
run = wandb.init(project="p", mode="offline")
run.log({"train_loss": 3.5, "other": 1}, step=0)
run.log({"train_loss": 1.25}, step=10)
run.finish()
"""


@pytest.mark.upstream_heavy
def test_losses_are_read_from_wandbs_own_file(tmp_path: Path) -> None:
    import subprocess

    python = ROOT / ENVIRONMENT / "bin" / "python"
    if trees.missing(python, ["wandb"]):
        pytest.skip("no wandb: .venvs/openvla is not built (make openvla)")
    subprocess.run([str(python), "-c", LOG], cwd=tmp_path, check=True, capture_output=True)
    script = [str(python), str(ROOT / "demo" / "openvla_losses.py"), str(tmp_path)]
    said = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    assert json.loads(said.splitlines()[-1]) == [[0, 3.5], [10, 1.25]]
