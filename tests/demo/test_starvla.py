"""The demo's starVLA part: which tree runs, what is run again, and failures that spare what was written before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import demo.__main__ as main
from demo import infodyn, openvla, starvla, starvla_tree
from demo.runs import RunFailed
from demo.starvla_tree import PARTS, Tree, standin_tree, why_not_real
from demo.trees import pristine
from look.words import ENGLISH
from tests.demo import infodyn_facts, openvla_facts, sample_facts, starvla_facts
from tests.standins.starvla_project import REPOSITORY

APPLIED = {"state": "applied", "tree_proven": True}


def test_the_real_tree_runs_where_nothing_is_wanting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, environment = tmp_path / "starVLA", tmp_path / "venv"
    assert why_not_real(APPLIED, checkout, environment).endswith("starVLA is not there")
    (checkout / "starVLA" / "training").mkdir(parents=True)
    assert why_not_real(None, checkout, environment).endswith("is not there")
    assert "its state: changed" in why_not_real({**APPLIED, "state": "changed"}, checkout, environment)
    assert "is not built" in why_not_real(APPLIED, checkout, environment)
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(starvla_tree, "REAL_MODULES", ("json", "no_such_module"))
    assert why_not_real(APPLIED, checkout, environment).endswith("lacks no_such_module")
    monkeypatch.setattr(starvla_tree, "REAL_MODULES", ("json",))
    assert why_not_real(APPLIED, checkout, environment) == ""


def test_a_stand_in_that_cannot_run_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starvla_tree, "STANDIN_MODULES", ("json", "no_such_module"))
    with pytest.raises(RunFailed, match=r"lacks no_such_module; `make demo`"):
        standin_tree(tmp_path, Path(sys.executable), "why")
    assert list(tmp_path.iterdir()) == []


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_pristine_is_head_without_the_graft(tmp_path: Path) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "pristine"
    for name in ("starVLA", "deployment", "examples"):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "code.py").write_text("upstream\n", encoding="utf-8")
    git(tmp_path, "init", "-q", str(checkout))
    with pytest.raises(RunFailed, match="archive"):
        pristine(checkout, folder, PARTS)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "one")
    (checkout / "starVLA" / "code.py").write_text("grafted\n", encoding="utf-8")
    (checkout / "starVLA" / "new.py").write_text("", encoding="utf-8")
    made = pristine(checkout, folder, PARTS)
    assert (made / "starVLA" / "code.py").read_text(encoding="utf-8") == "upstream\n"
    assert not (made / "starVLA" / "new.py").exists()
    (made / "kept").touch()
    assert (pristine(checkout, folder, PARTS) / "kept").exists()
    git(checkout, "commit", "-qam", "two")
    assert not (pristine(checkout, folder, PARTS) / "kept").exists()


RUNNER = """
import json, sys
plan = json.load(open(sys.argv[1]))
open(plan["work"] + "/../calls", "a").write("x")
if plan["mixture"] == "bad":
    sys.exit("dynamics: ended with 1")
json.dump({"off": plan["off"]}, open(sys.argv[2], "w"))
"""
SAME = {name: {"loss": ["0x1p+0"] * starvla.OFF_STEPS, "weights": ["aa"]} for name in ("upstream", "grafted")}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A grafted tree and a runner that only counts its calls."""
    (tmp_path / "run.py").write_text(RUNNER, encoding="utf-8")
    monkeypatch.setattr(starvla, "SCRIPT", tmp_path / "run.py")
    monkeypatch.setattr(starvla, "CODE", (tmp_path / "run.py",))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "new.py").write_text("a = 1\n", encoding="utf-8")
    git(tmp_path, "init", "-q", str(checkout))
    git(checkout, "commit", "-qm", "one", "--allow-empty")
    return Tree(checkout, checkout, Path(sys.executable), "why", ["x"], [], "", "toy_next", 4, ["json"])


def planned(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    honest = starvla.plan_of
    monkeypatch.setattr(starvla, "plan_of", lambda *a: {**honest(*a), "off": SAME, "mixture": "", **more})


def test_a_run_is_kept_until_the_tree_or_the_plan_changes(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "home" / "work" / "calls"
    planned(monkeypatch)
    assert starvla.run(tree, tmp_path / "home") == {"off": SAME}
    assert starvla.run(tree, tmp_path / "home") == {"off": SAME}
    assert calls.read_text() == "x"
    (tree.checkout / "new.py").write_text("a = 2\n", encoding="utf-8")
    starvla.run(tree, tmp_path / "home")
    assert calls.read_text() == "xx"
    planned(monkeypatch, off_steps=9)
    starvla.run(tree, tmp_path / "home")
    assert calls.read_text() == "xxx"


def test_a_failed_run_says_why_and_is_run_again(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, mixture="bad")
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"ended with 1\ndynamics: ended with 1"):
            starvla.run(tree, tmp_path / "home")
    assert (tmp_path / "home" / "work" / "calls").read_text() == "xx"


def test_a_framework_that_is_not_upstream_when_off_fails_the_chapter(tree: Tree) -> None:
    facts = starvla.gather(tree, {"off": SAME})
    assert [file["path"] for file in facts["overlays"]] == ["new.py"]
    for key in ("loss", "weights"):
        other = {**SAME, "grafted": {**SAME["grafted"], key: ["0x2p+0"] * starvla.OFF_STEPS}}
        with pytest.raises(RunFailed, match="switched off, MapAnythingLlava3DPI is not QwenPI"):
            starvla.gather(tree, {"off": other})
    empty = {name: {"loss": [], "weights": []} for name in SAME}
    with pytest.raises(RunFailed, match="is not QwenPI"):
        starvla.gather(tree, {"off": empty})


def test_the_plan_names_stages_and_options_that_the_overlay_has() -> None:
    tree = Tree(Path("c"), Path("p"), Path("python"), "", ["x"], [], "", "tiny_next", 8, [])
    plan = json.loads(json.dumps(starvla.plan_of(tree, Path("home"))))
    sagr = REPOSITORY / "overlays" / "starVLA" / "starVLA" / "sagr"
    stages = (sagr / "stages.py").read_text(encoding="utf-8")
    assert all(f'name="{name}"' in stages for name in plan["steps"])
    assert len(plan["steps"]) == stages.count("    Stage(\n")
    settings = (sagr / "config.py").read_text(encoding="utf-8")
    keys = [option.partition("=")[0].rpartition(".")[2] for option in plan["options"] if "framework.sagr" in option]
    assert [key for key in keys if f"    {key}: " not in settings] == []
    assert plan["real"]
    assert "deepspeed" in plan["versions"]


def test_a_failure_spares_the_rest_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is whole before a chapter begins, and the next one runs whatever became of it."""
    pages: list[str] = []
    asked: list[tuple[Any, ...]] = []
    report = tmp_path / "report.html"

    def ask(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return infodyn_facts.make()

    def fail(*_: object) -> dict[str, Any]:
        pages.append(report.read_text(encoding="utf-8"))
        raise RunFailed("icsm: failed: no luck")

    def succeed(*_: object) -> dict[str, Any]:
        pages.append(report.read_text(encoding="utf-8"))
        return starvla_facts.make(real=False)

    monkeypatch.setattr(infodyn, "facts_of", ask)
    monkeypatch.setattr(openvla, "facts_of", fail)
    monkeypatch.setattr(starvla, "facts_of", succeed)
    upstreams = {"LLaMA-Factory": {"state": "applied", "tree_proven": True, "packs": [], "errors": []}}
    bad = main.add_chapters(report, sample_facts.make(), upstreams, Path("python"), ENGLISH)
    assert asked == [(upstreams["LLaMA-Factory"], main.HOME / "infodyn", Path("python"))]
    assert bad == ["the chapter on openvla did not end well: icsm: failed: no luck"]
    assert pages[0].count("Not done when this page was written") == 2
    assert pages[0].count('class="chart heat"') == 2
    assert pages[1].count("Not done when this page was written") == 1
    html = report.read_text(encoding="utf-8")
    assert "icsm: failed: no luck" in html
    assert "on a stand-in, not on starVLA" in html
    assert html.index('id="infodyn"') < html.index('id="openvla"') < html.index('id="starvla"')
    monkeypatch.setattr(openvla, "facts_of", lambda *_: openvla_facts.make(real=False))
    assert main.add_chapters(report, sample_facts.make(), {}, Path("python"), ENGLISH) == []
    assert "on a stand-in, not on openvla" in report.read_text(encoding="utf-8")
