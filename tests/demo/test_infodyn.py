"""The demo's part on information dynamics: what is kept, what is run again, and a failure that is shown."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import infodyn
from demo.runs import RunFailed

SETTINGS = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
RUNNER = """
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
calls = work.parent / "calls"
calls.write_text((calls.read_text() if calls.exists() else "") + "x")
if (work.parent / "bad").exists():
    sys.exit("training: ended with 1")
(work / "run").mkdir(parents=True)
lines = [{"step": 0, "choice": {"task": "sort", "kind": "cold", "reason": "r", "grokked": []}},
         {"task": "echo", "metrics": {"step": 20}}, {"task": "sort", "metrics": {"step": 20}}]
(work / "run" / "schedule.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grafted checkout, and a runner that only counts its calls and leaves a schedule."""
    (tmp_path / "run.py").write_text(RUNNER, encoding="utf-8")
    (tmp_path / "counts.py").write_text('print(\'{"experts.echo": {"4": {}}}\')', encoding="utf-8")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "new.py").write_text("a = 1\n", encoding="utf-8")
    for command in (["init", "-q", "."], ["commit", "-qm", "one", "--allow-empty"]):
        subprocess.run(["git", *SETTINGS, *command], cwd=checkout, check=True)
    monkeypatch.setattr(infodyn, "RUNNER", (str(tmp_path / "run.py"),))
    for name, path in (("COUNTS", "counts.py"), ("CHECKOUT", "checkout"), ("ANALYST", "none")):
        monkeypatch.setattr(infodyn, name, tmp_path / path)
    monkeypatch.setattr(infodyn, "CODE", (tmp_path / "run.py",))
    monkeypatch.setattr(infodyn, "compare", lambda *given: {"asked": [str(each) for each in given[1:]]})
    return tmp_path / "home"


def test_a_run_is_kept_until_the_tree_the_code_or_an_environment_changes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, python = home / "calls", Path(sys.executable)
    assert infodyn.run(python, home) == infodyn.run(python, home)
    assert calls.read_text() == "x"
    (tmp_path / "checkout" / "new.py").write_text("a = 2\n", encoding="utf-8")
    infodyn.run(python, home)
    assert calls.read_text() == "xx"
    (tmp_path / "run.py").write_text(RUNNER + "\n", encoding="utf-8")
    infodyn.run(python, home)
    assert calls.read_text() == "xxx"
    monkeypatch.setattr(infodyn, "ANALYST", python)
    infodyn.run(python, home)
    assert calls.read_text() == "xxxx"


def test_a_failed_run_says_why_and_is_run_again(home: Path) -> None:
    home.mkdir()
    (home / "bad").touch()
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"ended with 1; the whole log is .*\ntraining: ended with 1"):
            infodyn.run(Path(sys.executable), home)
    assert (home / "calls").read_text() == "xx"


def test_the_facts_are_what_the_run_left(home: Path) -> None:
    facts = infodyn.facts_of({"tree_proven": True}, home, Path(sys.executable))
    assert facts["proven"]
    assert facts["choices"] == [{"task": "sort", "kind": "cold", "reason": "r", "grokked": [], "step": 0}]
    assert facts["evaluations"] == {"echo": [{"step": 20}], "sort": [{"step": 20}]}
    assert facts["counts"] == {"echo": {"4": {}}}
    assert facts["oid"] == {}
    assert facts["off"]["asked"][1:] == [str(home / "work" / "train.yaml"), str(home)]
    assert len(facts["commit"]) == 40
    assert not infodyn.facts_of(None, home, Path(sys.executable))["proven"]
    (home / "work" / "run" / "schedule.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunFailed, match="has 0 choices and 0 tasks"):
        infodyn.facts_of(None, home, Path(sys.executable))


def table(path: Path) -> None:
    """Two atoms and two sums of one pair at epoch 10, after a pair that was not computed at epoch 2."""
    shared = {"expert_i": "e.0", "expert_j": "e.1", "target": "t", "used_rows": "256", "singular": "1", "unit": "nats"}
    rows: list[dict[str, Any]] = [{**shared, "epoch": 2, "singular": "0", "not_computed": "too few"}]
    for number, atom in enumerate(("rtr", "sts", "Red", "Syn")):
        rows.append({**shared, "epoch": 10, "atom": atom, "value": number, "low": number - 1, "high": number + 1})
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.DictWriter(file, [*shared, "epoch", "atom", "value", "low", "high", "not_computed"])
        written.writeheader()
        written.writerows(rows)


def test_the_analysis_is_read_pair_by_pair_with_its_pictures(tmp_path: Path) -> None:
    table(tmp_path / "atoms.csv")
    for epoch in (2, 10):
        for kind in ("syn", "red"):
            (tmp_path / f"epoch_{epoch}_{kind}.svg").write_text(f"<svg>{kind} {epoch}</svg>", encoding="utf-8")
    found = infodyn.analysis(tmp_path, "x")
    assert found["page"] == "x/report.html"
    assert found["maps"] == {e: {"Syn": f"<svg>syn {e}</svg>", "Red": f"<svg>red {e}</svg>"} for e in ("2", "10")}
    first, second = found["pairs"]
    assert (first["epoch"], first["problem"], first["values"], first["singular"]) == ("2", "too few", {}, False)
    assert (second["i"], second["j"], second["rows"], second["singular"]) == ("e.0", "e.1", "256", True)
    assert second["values"] == {
        "Red": {"value": 2.0, "low": 1.0, "high": 3.0, "unit": "nats"},
        "Syn": {"value": 3.0, "low": 2.0, "high": 4.0, "unit": "nats"},
    }
    (tmp_path / "epoch_2_red.svg").unlink()
    with pytest.raises(RunFailed, match=r"has epoch 2, but .*epoch_2_red\.svg is not there"):
        infodyn.analysis(tmp_path, "x")


def test_the_steps_reach_the_runner(home: Path) -> None:
    made = infodyn.run(Path(sys.executable), home)
    assert made["command"].endswith(f"{home / 'work'} --steps {infodyn.STEPS}")
    assert json.loads((home / "run.json").read_text(encoding="utf-8")) == made
