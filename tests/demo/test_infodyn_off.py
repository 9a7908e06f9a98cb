"""Whether off is the upstream: both trees run, each its own code, and any difference fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo import infodyn_off
from demo.runs import RunFailed
from tests.demo.test_infodyn import SETTINGS

PLAIN = """
import json, pathlib, sys
def main():
    settings = json.load(open(sys.argv[2]))
    pathlib.Path(settings["output_dir"], "model.safetensors").write_text(WEIGHTS)
    lines = [{"current_steps": n, "loss": 1.5 / n} for n in range(1, settings["max_steps"] + 1)] + [{"eval_loss": 1}]
    log = pathlib.Path(settings["output_dir"], "trainer_log.jsonl")
    log.write_text("".join(json.dumps(line) + "\\n" for line in lines))
WEIGHTS = "w"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tree whose trainer leaves a loss and weights, and after it is grafted, other code that leaves the same."""
    package = tmp_path / "checkout" / "src" / "llamafactory"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(PLAIN, encoding="utf-8")
    for command in (["init", "-q", "."], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *SETTINGS, *command], cwd=tmp_path / "checkout", check=True)
    (package / "cli.py").write_text(PLAIN + "# grafted\n", encoding="utf-8")
    (tmp_path / "train.yaml").write_text(json.dumps({**dict.fromkeys(infodyn_off.SWITCHES, 1), "seed": 7}))
    return tmp_path / "checkout"


def compare(checkout: Path) -> dict[str, dict[str, list[str]]]:
    return infodyn_off.compare(Path(sys.executable), checkout, checkout.parent / "train.yaml", checkout.parent / "home")


def test_both_trees_train_without_the_switches(checkout: Path) -> None:
    found = compare(checkout)
    assert found["upstream"] == found["grafted"]
    assert found["upstream"]["loss"][1] == "0x1.8000000000000p-1"
    assert len(found["upstream"]["loss"]) == infodyn_off.STEPS
    folder = checkout.parent / "home" / "off"
    for name, tree in (("upstream", checkout.parent / "home" / "pristine"), ("grafted", checkout)):
        assert (folder / f"{name}.log").read_text().startswith(f"{tree / 'src'}/llamafactory/__init__.py")
        settings = json.loads((folder / f"{name}.yaml").read_text())
        assert settings["seed"] == 7
        assert not set(settings) & set(infodyn_off.SWITCHES)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('WEIGHTS = "w"', 'WEIGHTS = "v"', "does not train as upstream does"),
        ("1.5 / n", "1.25 / n", "does not train as upstream does"),
        ("range(1, settings", "range(2, settings", "does not train as upstream does"),
        ("def main():", "def main():\n    sys.exit(5)", "ended with 5"),
    ],
)
def test_a_difference_fails(checkout: Path, old: str, new: str, says: str) -> None:
    (checkout / "src" / "llamafactory" / "cli.py").write_text(PLAIN.replace(old, new), encoding="utf-8")
    with pytest.raises(RunFailed, match=says):
        compare(checkout)


def test_a_run_of_other_code_fails(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        infodyn_off, "ENTRY", "import os; print(os.__file__); from llamafactory.cli import main; main()"
    )
    with pytest.raises(RunFailed, match=r"checkout.src|pristine.src"):
        compare(checkout)


def test_equal_runs_of_no_step_fail(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infodyn_off, "losses", lambda path: [])
    with pytest.raises(RunFailed, match="does not train as upstream does"):
        compare(checkout)
