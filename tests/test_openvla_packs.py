"""The packs of openvla and LIBERO: how much they change, at how many commits they stand, and what their seams do.

What stands on a real tree is marked ``upstream``; it reads the pinned commit and leaves every checkout as it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graft.errors import GraftError
from graft.history import History, find
from graft.lock import Lock
from graft.overlay import overlay_files
from graft.pack import Pack, load_pack
from graft.rewrite import rewrite
from graft.trials import ASIDE, Bench
from tests.libero import eval_world

ROOT = Path(__file__).resolve().parents[1]
PACKS = {"openvla": ["gradient_surgery", "eval", "infodyn"], "LIBERO": ["modern_stack"]}
MOST_LINES = 40
EVAL = "experiments/robot/libero/run_libero_eval.py"

upstream = pytest.mark.upstream


def packs(name: str) -> list[Pack]:
    return [load_pack(ROOT, name, pack)[0] for pack in PACKS[name]]


def first_line(problem: BaseException) -> str:
    return str(problem).splitlines()[0]


class Real:
    """The real trees as they are at the pin, and as the packs make them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[str, History] = {}
        self._made: dict[str, dict[str, bytes]] = {}

    def history(self, name: str, *, whole: bool = False) -> History:
        """A repository that has the pin; with ``whole``, one that has everything before it."""
        (pinned,) = Lock.load(ROOT).select([name])
        try:
            found = find(pinned, ROOT)
        except GraftError as error:
            place = ROOT / pinned.path
            if whole or not (place / ".git").exists():
                pytest.skip(f"{name}: {first_line(error)}")
            found = History(place)
        self._stack.enter_context(found)
        if not found.has(pinned.commit):
            pytest.skip(f"{name}: the pinned commit is not on this machine")
        return found

    def tree(self, name: str) -> tuple[History, str]:
        if name not in self._open:
            self._open[name] = self.history(name)
        return self._open[name], Lock.load(ROOT).select([name])[0].commit

    def plain(self, name: str, path: str) -> bytes:
        history, commit = self.tree(name)
        content = history.tree(commit).read(path)
        assert content is not None
        return content

    def made(self, name: str) -> dict[str, bytes]:
        """Every upstream file that the packs change, by path."""
        if name not in self._made:
            history, commit = self.tree(name)
            result = rewrite(history.tree(commit), packs(name))
            assert [str(problem) for problem in result.failures] == []
            self._made[name] = result.contents
        return self._made[name]


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    with ExitStack() as stack:
        yield Real(stack)


def overlays(name: str, *, below: str) -> dict[str, bytes]:
    found = {file.path: file.content for pack in packs(name) for file in overlay_files(ROOT, pack)}
    return {path: content for path, content in found.items() if path.startswith(below)}


# The packs themselves


@pytest.mark.parametrize("name", PACKS)
def test_the_lock_names_them(name: str) -> None:
    assert list(Lock.load(ROOT).select([name])[0].packs) == PACKS[name]


@pytest.mark.parametrize("name", PACKS)
def test_their_overlays_are_there_and_stand_alone(name: str) -> None:
    found = overlays(name, below="")
    assert found
    for path, content in found.items():
        if path.endswith(".py"):
            imported = re.findall(rb"^\s*(?:from|import)\s+([\w.]+)", content, re.MULTILINE)
            assert not {b"graft", b"tests", b"runners", b"look"} & {word.split(b".")[0] for word in imported}, path


@upstream
def test_they_change_few_lines(real: Real, tmp_path: Path) -> None:
    """Counted by git itself: lines added and lines taken."""
    total = 0
    for name in PACKS:
        for path, content in real.made(name).items():
            (tmp_path / "a").write_bytes(real.plain(name, path))
            (tmp_path / "b").write_bytes(content)
            command = ["git", "diff", "--no-index", "--numstat", str(tmp_path / "a"), str(tmp_path / "b")]
            added, taken, _ = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\t")
            total += int(added) + int(taken)
    assert 0 < total <= MOST_LINES


@upstream
@pytest.mark.parametrize(("name", "pack"), [(name, pack) for name, own in PACKS.items() for pack in own])
def test_they_stand_at_every_commit_that_holds_the_definitions(name: str, pack: str, real: Real) -> None:
    history = real.history(name, whole=True)
    pinned = Lock.load(ROOT).select([name])[0].commit
    roots = subprocess.run(
        ["git", "-C", str(history.git_dir), "rev-list", "--max-parents=0", pinned],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    trials = Bench(history, [load_pack(ROOT, name, pack)[0]]).trials(f"{roots[-1]}..{pinned}")
    judged = [trial for trial in trials if trial.verdict != ASIDE]
    assert [
        (str(trial.commit), [str(problem) for problem in trial.failures]) for trial in judged if trial.failures
    ] == []
    assert len(judged) >= 3
    assert all(trial.missing for trial in trials if trial.verdict == ASIDE)


# openvla: training


@upstream
def test_off_needs_nothing_but_the_field(real: Real) -> None:
    """What is added reads the configuration, asks the methods, or is an import; it binds no name of upstream's."""
    allowed = {"surgery", "probes", "exp_id", "cfg.run_id", "train_strategy.surgery"}
    for path in ("vla-scripts/finetune.py", "vla-scripts/train.py", "prismatic/training/strategies/base_strategy.py"):
        before, after = (ast.parse(text) for text in (real.plain("openvla", path), real.made("openvla")[path]))
        known = {ast.dump(node) for node in ast.walk(before) if isinstance(node, ast.stmt)}
        added = [node for node in ast.walk(after) if isinstance(node, ast.stmt) and ast.dump(node) not in known]
        for node in added:
            assert not isinstance(node, ast.Return | ast.Raise | ast.Delete)
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                assert {ast.unparse(target) for target in targets} <= allowed


@upstream
def test_thermostat_and_probes_are_asked_once_an_optimizer_step(real: Real) -> None:
    loop = ast.parse(real.made("openvla")["vla-scripts/finetune.py"])
    blocks = [node.body for node in ast.walk(loop) if isinstance(node, ast.If)]
    (block,) = [body for body in blocks if any(ast.unparse(line) == "optimizer.step()" for line in body)]
    lines = [ast.unparse(line) for line in block]
    assert lines.index("surgery.before_step()") == lines.index("optimizer.step()") - 1
    assert lines.index("probes.after_step()") == lines.index("optimizer.step()") + 1
    assert "progress.update()" in lines


# openvla: the evaluation, its real loop in a world of stand-ins


@pytest.fixture
def plain_eval(real: Real, tmp_path: Path) -> Path:
    return eval_world.build(tmp_path / "plain", real.plain("openvla", EVAL), {})


@pytest.fixture
def patched_eval(real: Real, tmp_path: Path) -> Path:
    files = overlays("openvla", below="experiments/")
    return eval_world.build(tmp_path / "patched", real.made("openvla")[EVAL], files)


def log_of(place: Path) -> str:
    (log,) = (place / "logs").glob("*.txt")
    return log.read_text()


def result_of(place: Path) -> dict[str, Any]:
    (file,) = (place / "logs").glob("*.results.json")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


@upstream
def test_a_sound_policy_is_evaluated_as_upstream_does(plain_eval: Path, patched_eval: Path) -> None:
    plain, patched = (
        eval_world.run(place, "good", "--num_trials_per_task", "2") for place in (plain_eval, patched_eval)
    )
    assert (plain.returncode, patched.returncode) == (0, 0), plain.stderr + patched.stderr
    assert log_of(patched_eval) == log_of(plain_eval)
    said = [line for line in patched.stdout.splitlines() if not line.startswith("Results: ")]
    assert "\n".join(said).replace("/patched/", "/plain/") == plain.stdout.rstrip("\n")
    result = result_of(patched_eval)
    assert (result["episodes"], result["successes"], result["errors"]) == (6, 4, 0)
    assert result["success_rate"] == pytest.approx(4 / 6)


@upstream
def test_only_so_many_tasks(patched_eval: Path) -> None:
    ran = eval_world.run(patched_eval, "good", "--num_trials_per_task", "1", "--num_tasks", "2")
    assert ran.returncode == 0, ran.stderr
    result = result_of(patched_eval)
    assert [task["task"] for task in result["tasks"]] == ["task 0", "task 1"]
    assert (result["num_tasks"], result["tasks_in_suite"]) == (2, 3)


@upstream
def test_one_error_is_counted_apart_and_does_not_fail_the_run(patched_eval: Path) -> None:
    ran = eval_world.run(patched_eval, "shaky", "--num_trials_per_task", "2", "--num_tasks", "1")
    assert ran.returncode == 0, ran.stderr
    result = result_of(patched_eval)
    assert (result["episodes"], result["successes"], result["errors"]) == (2, 1, 1)
    assert (result["success_rate"], result["success_rate_completed"]) == (0.5, 1.0)
    assert "ValueError: the policy is broken" in log_of(patched_eval)
    assert "in get_action" in log_of(patched_eval), "with its traceback"


@upstream
def test_a_broken_policy_reads_as_a_success_rate_upstream_and_fails_here(plain_eval: Path, patched_eval: Path) -> None:
    plain = eval_world.run(plain_eval, "broken", "--num_trials_per_task", "2")
    assert plain.returncode == 0
    assert "Current total success rate: 0.0" in plain.stdout
    patched = eval_world.run(patched_eval, "broken", "--num_trials_per_task", "2")
    assert patched.returncode == 1
    assert "each of the 6 episodes ended with an error" in patched.stderr
    assert "Current total success rate: 0.0" in patched.stdout, "upstream's own lines stay"
    assert result_of(patched_eval)["errors"] == 6


@upstream
def test_an_exception_at_the_first_step(plain_eval: Path, patched_eval: Path) -> None:
    plain = eval_world.run(plain_eval, "stillborn", "--num_trials_per_task", "1")
    assert "UnboundLocalError" in plain.stderr, "upstream goes on with a done that was never set"
    patched = eval_world.run(patched_eval, "stillborn", "--num_trials_per_task", "1")
    assert "UnboundLocalError" not in patched.stderr
    assert result_of(patched_eval)["error_kinds"] == {"RuntimeError: not even the first step": 3}
    assert "success False" in log_of(patched_eval)


# LIBERO


def reset_of(content: bytes, error: type[Exception]) -> Any:
    """``ControlEnv.reset`` alone, with ``error`` as its RandomizationError."""
    tree = ast.parse(content)
    (wrapper,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ControlEnv"]
    (method,) = [node for node in wrapper.body if isinstance(node, ast.FunctionDef) and node.name == "reset"]
    scope: dict[str, Any] = {"RandomizationError": error}
    exec(compile(ast.Module([method], []), "reset", "exec"), scope)
    return scope["reset"]


@upstream
def test_reset_tries_again_for_a_randomization_error_only(real: Real) -> None:
    class Randomization(Exception):
        pass

    def environment(*ends: Any) -> Any:
        left = iter(ends)

        def reset() -> Any:
            end = next(left)
            if isinstance(end, BaseException):
                raise end
            return end

        return types.SimpleNamespace(env=types.SimpleNamespace(reset=reset))

    path = "libero/libero/envs/env_wrapper.py"
    reset = reset_of(real.made("LIBERO")[path], Randomization)
    assert reset(environment(Randomization(), Randomization(), {"image": 1})) == {"image": 1}
    with pytest.raises(ValueError, match="a real one"):
        reset(environment(ValueError("a real one"), {"image": 1}))
    swallows = reset_of(real.plain("LIBERO", path), Randomization)
    assert swallows(environment(ValueError("a real one"), {"image": 1})) == {"image": 1}, "as it was"


def import_libero(files: dict[str, bytes], place: Path, program: str, **how: Any) -> subprocess.CompletedProcess[str]:
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    paths = {"PYTHONPATH": str(place), "LIBERO_CONFIG_PATH": str(place / "config"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", f"import libero.libero as libero\n{program}"]
    return subprocess.run(
        command, env={**os.environ, **paths}, capture_output=True, text=True, check=False, timeout=60, **how
    )


@upstream
def test_first_import(real: Real, tmp_path: Path) -> None:
    path = "libero/libero/__init__.py"
    ours = {**overlays("LIBERO", below="libero/"), path: real.made("LIBERO")[path]}
    plain = import_libero({path: real.plain("LIBERO", path)}, tmp_path / "plain", "", stdin=subprocess.DEVNULL)
    assert "EOFError" in plain.stderr, "as it was"

    ran = import_libero(ours, tmp_path / "a", "print(libero.get_libero_path('assets'))", stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == str(tmp_path / "a/libero/libero") + "/./assets"

    answered = import_libero(ours, tmp_path / "b", "", input=f"y\n{tmp_path / 'mine'}\ny\n")
    assert answered.returncode == 0, answered.stderr
    assert "Do you want to specify a custom path" in answered.stdout
    assert f"datasets: {tmp_path / 'mine/datasets'}" in (tmp_path / "b/config/config.yaml").read_text()


@upstream
def test_a_checkout_that_moved(real: Real, tmp_path: Path) -> None:
    path = "libero/libero/__init__.py"
    ours = {**overlays("LIBERO", below="libero/"), path: real.made("LIBERO")[path]}
    for folder in ("assets", "bddl_files", "init_files"):
        ours[f"libero/libero/{folder}/.keep"] = b""
    first = import_libero(ours, tmp_path / "old", "", stdin=subprocess.DEVNULL)
    assert first.stderr == ""
    (tmp_path / "old").rename(tmp_path / "new")
    moved = import_libero(ours, tmp_path / "new", "", stdin=subprocess.DEVNULL)
    assert moved.returncode == 0
    assert str(tmp_path / "old/libero/libero") in moved.stderr
    assert str(tmp_path / "new/config/config.yaml") in moved.stderr
