"""The packs of starVLA: how much they change, at how many commits they stand, and that off is nothing.

What stands on a real tree is marked ``upstream``; it reads commits and leaves every checkout as it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.history import History, find
from graft.lock import Lock
from graft.overlay import overlay_files
from graft.pack import Pack, load_pack
from graft.rewrite import rewrite
from graft.trials import ASIDE, Bench

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / "tests" / "starvla_real"
PYTHON = ROOT / ".venvs" / "starVLA" / "bin" / "python"
HEAD = "starVLA/model/modules/action_model/LayerwiseFM_ActionHeader.py"
TRAIN = "starVLA/training/train_starvla.py"
PACKS = ("sagr_flow", "infodyn")
MOST_LINES, LEAST_RATE = 20, 0.95
FIRST = "258361581550cadb8501ced4ceeca1e741b16ee4"  # the commit that brought the head, 2025-10-12
NEWEST = "0ed0aad2c83f587714f6167ef60cf7218b786590"  # 2026-08-10
OWN_TESTS = (
    "test_config_overrides.py",
    "test_gr00t_zmq_compat_server.py",
    "test_robocasa_tabletop_interface.py",
    "test_single_process_dist_safety.py",
)

upstream = pytest.mark.upstream


def packs(*names: str) -> list[Pack]:
    return [load_pack(ROOT, "starVLA", name)[0] for name in names or PACKS]


def overlays() -> dict[str, bytes]:
    return {file.path: file.content for pack in packs() for file in overlay_files(ROOT, pack)}


@pytest.fixture(scope="module")
def pin() -> str:
    return Lock.load(ROOT).select(["starVLA"])[0].commit


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """A repository that has every commit from the head's first to the newest."""
    (pinned,) = Lock.load(ROOT).select(["starVLA"])
    try:
        found = find(pinned, ROOT)
    except GraftError as error:
        pytest.skip(f"starVLA: {str(error).splitlines()[0]}")
    with found:
        if not all(found.has(commit) for commit in (FIRST, pinned.commit, NEWEST)):
            pytest.skip(
                "starVLA: the history on this machine does not reach from the head's first commit to the newest"
            )
        yield found


@pytest.fixture(scope="module")
def made(history: History) -> Callable[[str], dict[str, bytes]]:
    """Every upstream file that the packs change at a commit, by path."""
    kept: dict[str, dict[str, bytes]] = {}

    def at(commit: str) -> dict[str, bytes]:
        if commit not in kept:
            result = rewrite(history.tree(commit), packs())
            assert [str(problem) for problem in result.failures] == []
            kept[commit] = result.contents
        return kept[commit]

    return at


def plain(history: History, commit: str, path: str) -> bytes:
    content = history.tree(commit).read(path)
    assert content is not None
    return content


def test_the_lock_names_them() -> None:
    assert list(Lock.load(ROOT).select(["starVLA"])[0].packs) == list(PACKS)


def test_their_overlays_are_there_and_stand_alone() -> None:
    found = overlays()
    assert {"starVLA/model/framework/VLM4A/MapAnythingLlava3DPI.py", "starVLA/infodyn/probe.py"} <= set(found)
    for path, content in found.items():
        if path.endswith(".py"):
            imported = re.findall(rb"^\s*(?:from|import)\s+([\w.]+)", content, re.MULTILINE)
            assert not {b"graft", b"tests", b"runners", b"look"} & {word.split(b".")[0] for word in imported}, path
            if path.startswith(("starVLA/sagr/", "starVLA/infodyn")):
                assert not [word for word in imported if word.split(b".")[0] == b"starVLA"], f"{path}: not relative"


@upstream
@pytest.mark.parametrize("which", ["pin", "newest"])
def test_they_change_few_lines_and_take_none(
    which: str, pin: str, history: History, made: Callable[[str], dict[str, bytes]], tmp_path: Path
) -> None:
    """Counted by git itself."""
    commit = pin if which == "pin" else NEWEST
    assert set(made(commit)) == {HEAD, TRAIN}
    added = taken = 0
    for path, content in made(commit).items():
        (tmp_path / "a").write_bytes(plain(history, commit, path))
        (tmp_path / "b").write_bytes(content)
        command = ["git", "diff", "--no-index", "--numstat", str(tmp_path / "a"), str(tmp_path / "b")]
        plus, minus, _ = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\t")
        added, taken = added + int(plus), taken + int(minus)
    assert 0 < added <= MOST_LINES
    assert taken == 0


@upstream
@pytest.mark.parametrize("name", PACKS)
def test_they_stand_at_the_commits_since_the_head_came(name: str, history: History) -> None:
    trials = Bench(history, packs(name)).trials(f"{FIRST}~1..{NEWEST}")
    judged = [trial for trial in trials if trial.verdict != ASIDE]
    assert len(judged) >= 50
    broken = [(str(trial.commit), [str(problem) for problem in trial.failures]) for trial in judged if trial.failures]
    assert 1 - len(broken) / len(judged) >= LEAST_RATE, broken


@upstream
@pytest.mark.parametrize("which", ["pin", "newest"])
def test_off_every_added_statement_is_a_no_op(
    which: str, pin: str, history: History, made: Callable[[str], dict[str, bytes]]
) -> None:
    """The head's are conditional expressions that give back their own name without a flow; the trainer's, two
    imports, an entry that is empty for every other framework (tests/starvla/test_sagr_metrics.py), and a call that
    returns at once without `trainer.probes` (tests/starvla/test_probes.py)."""
    commit = pin if which == "pin" else NEWEST
    before, after = (ast.parse(content) for content in (plain(history, commit, HEAD), made(commit)[HEAD]))
    known = {ast.dump(node) for node in ast.walk(before) if isinstance(node, ast.stmt)}
    fresh = [node for node in ast.walk(after) if isinstance(node, ast.stmt) and ast.dump(node) not in known]
    leaves = [node for node in fresh if not hasattr(node, "body")]
    assert len(leaves) == 2
    for node in leaves:
        assert isinstance(node, ast.Assign)
        assert isinstance(node.value, ast.IfExp)
        assert ast.unparse(node.value.test) == "flow is None"
        assert ast.unparse(node.value.body) == ast.unparse(node.targets[0])
    (klass,) = [node for node in after.body if getattr(node, "name", "") == "LayerwiseFlowmatchingActionHead"]
    assert isinstance(klass, ast.ClassDef)
    given = {}
    for method in klass.body:
        if isinstance(method, ast.FunctionDef) and method.name in ("forward", "predict_action"):
            named = [argument.arg for argument in method.args.args]
            given[method.name] = (named[-1], ast.unparse(method.args.defaults[-1]))
    assert given == {"forward": ("flow", "None"), "predict_action": ("flow", "None")}

    added = made(commit)[TRAIN].decode()
    for line in (
        b"from starVLA.sagr.trainer import step_metrics as sagr_metrics",
        b"**sagr_metrics(self, output_dict),",
        b"from starVLA.infodyn_trainer import attach_probes",
        b"    attach_probes(trainer)",
    ):
        assert added.count(line.decode()) == 1
        added = added.replace(next(each for each in added.splitlines(True) if line.decode() in each), "")
    assert added.encode() == plain(history, commit, TRAIN)


@pytest.fixture(scope="module")
def newest(
    history: History, made: Callable[[str], dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Upstream's newest commit as it is, and as the packs make it."""
    if not PYTHON.exists():
        pytest.skip("no .venvs/starVLA: run `make starvla`")
    archive = subprocess.run(
        ["git", "archive", NEWEST, "starVLA", "deployment", "examples", "tests"],
        cwd=history.git_dir,
        capture_output=True,
        check=True,
    )
    trees = {name: tmp_path_factory.mktemp(name) for name in ("plain", "grafted")}
    for tree in trees.values():
        subprocess.run(["tar", "x", "-C", str(tree)], input=archive.stdout, check=True)
    files = overlays() | made(NEWEST)
    for path, content in files.items():
        (trees["grafted"] / path).parent.mkdir(parents=True, exist_ok=True)
        (trees["grafted"] / path).write_bytes(content)
    return trees


def run(tree: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    settings = {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [str(PYTHON), *map(str, arguments)],
        cwd=tree,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.upstream_heavy
def test_upstreams_own_tests_end_as_before(newest: dict[str, Path]) -> None:
    """Upstream has tests at its newest commit; each of them has the same outcome with the graft."""
    outcomes = {}
    for name, tree in newest.items():
        own = [tree / "tests" / test for test in OWN_TESTS]
        ran = run(tree, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", tree, *own)
        found = re.findall(r"^(\S+::\S+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)", ran.stdout, re.MULTILINE)
        assert {test.partition("::")[0] for test, _ in found} == {f"tests/{test}" for test in OWN_TESTS}, ran.stdout
        outcomes[name] = dict(found)
    assert outcomes["grafted"] == outcomes["plain"]
    assert list(outcomes["plain"].values()).count("PASSED") >= len(OWN_TESTS)


@pytest.mark.upstream_heavy
def test_at_the_newest_commit_off_is_the_upstream_and_on_trains(newest: dict[str, Path], tmp_path: Path) -> None:
    """There the head's loop is another one; it runs in the pin's environment."""
    ran = run(newest["plain"], REAL / "materials.py", tmp_path / "materials")
    assert ran.returncode == 0, ran.stderr
    found = {}
    for name, tree, on in (("plain", "plain", ()), ("off", "grafted", ()), ("on", "grafted", ("on",))):
        ran = run(newest[tree], REAL / "native.py", newest[tree], tmp_path / name, tmp_path / "materials", *on)
        assert ran.returncode == 0, ran.stderr
        found[name] = json.loads(ran.stdout.splitlines()[-1])
    assert found["off"] == found["plain"]
    assert len(set(found["plain"]["losses"])) == len(found["on"]["losses"]) == 4
    assert [line["step"] for line in found["on"]["metrics"]] == [1, 2, 3, 4]
    assert all(line["debug/sagr/mse_dyn"] > 0 for line in found["on"]["metrics"])
