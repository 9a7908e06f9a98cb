"""An evaluation's account: errors apart from failures, the result on disk after each episode, a loud end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.libero.overlays import ROBOT, load

evaluation = load(ROBOT / "libero/evaluation.py")
attention = load(ROBOT / "attention.py")


@pytest.fixture
def libero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LIBERO package of two folders; returns its assets."""
    package = tmp_path / "libero/libero"
    (package / "assets").mkdir(parents=True)
    outer, inner = ModuleType("libero"), ModuleType("libero.libero")
    outer.libero, inner.__path__ = inner, [str(package)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libero", outer)
    monkeypatch.setitem(sys.modules, "libero.libero", inner)
    return package / "assets"


def config(**changes: Any) -> SimpleNamespace:
    given = {
        "num_tasks": None,
        "task_suite_name": "libero_spatial",
        "pretrained_checkpoint": "runs/x--image_aug",
        "seed": 3,
        "num_trials_per_task": 2,
        "center_crop": True,
        "unnorm_key": "libero_spatial_no_noops",
        "resume_results": None,
    }
    return SimpleNamespace(**{**given, **changes})


def begin(tmp_path: Path, **changes: Any) -> tuple[Any, int, Path]:
    log = (tmp_path / "EVAL-x.txt").open("w")
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
    account, tasks = evaluation.begin_evaluation(config(**changes), model, 10, log)
    return account, tasks, tmp_path / "EVAL-x.results.json"


def fail(account: Any, error: Exception) -> Any:
    try:
        raise error
    except Exception as caught:
        return account.error(caught)


@pytest.mark.parametrize(("asked", "tasks"), [(None, 10), (1, 1), (10, 10)])
def test_number_of_tasks(asked: int | None, tasks: int, tmp_path: Path, libero: Path) -> None:
    assert begin(tmp_path, num_tasks=asked)[1] == tasks


@pytest.mark.parametrize("asked", [0, -1, 11])
def test_impossible_numbers_of_tasks_are_refused(asked: int, tmp_path: Path, libero: Path) -> None:
    with pytest.raises(ValueError, match=rf"num_tasks is {asked}.*libero_spatial"):
        begin(tmp_path, num_tasks=asked)


def test_errors_are_counted_apart_from_failures(tmp_path: Path, libero: Path) -> None:
    account, _, file = begin(tmp_path, num_tasks=2)
    account.episode(0, "pick", True)
    account.episode(0, "pick", fail(account, ValueError("broken")))
    account.episode(1, "place", False)
    account.episode(1, "place", True)
    account.finish()
    result = json.loads(file.read_text())
    assert result["tasks"] == [
        {"task_id": 0, "task": "pick", "episodes": 2, "successes": 1, "errors": 1},
        {"task_id": 1, "task": "place", "episodes": 2, "successes": 1, "errors": 0},
    ]
    assert (result["episodes"], result["successes"], result["errors"]) == (4, 2, 1)
    assert result["success_rate"] == 0.5
    assert result["success_rate_completed"] == pytest.approx(2 / 3)
    assert result["error_kinds"] == {"ValueError: broken": 1}
    assert result["complete"]
    assert result["attention"] == "sdpa"
    assert (result["seed"], result["task_suite_name"], result["pretrained_checkpoint"]) == (
        3,
        "libero_spatial",
        "runs/x--image_aug",
    )


def test_an_error_ends_an_episode_undone_and_only_that_one(tmp_path: Path, libero: Path) -> None:
    account, _, file = begin(tmp_path)
    assert fail(account, KeyError("image")) is False
    account.episode(0, "pick", True)  # a stale done does not turn an error into a success
    account.episode(0, "pick", True)
    result = json.loads(file.read_text())
    assert (result["successes"], result["errors"]) == (1, 1)


def test_the_traceback_is_kept_in_the_log(tmp_path: Path, libero: Path) -> None:
    account, _, _ = begin(tmp_path)
    account.episode(0, "pick", fail(account, ValueError("broken")))
    account.log_file.close()
    log = (tmp_path / "EVAL-x.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "in fail" in log
    assert "ValueError: broken" in log
    assert "# errors: 1 of 1 episodes" in log


def test_a_killed_evaluation_leaves_what_it_had(tmp_path: Path, libero: Path) -> None:
    account, _, file = begin(tmp_path)
    account.episode(0, "pick", True)
    result = json.loads(file.read_text())
    assert result["complete"] is False
    assert result["successes"] == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_it_fails_when_every_episode_errored_and_the_result_is_there(tmp_path: Path, libero: Path) -> None:
    account, _, file = begin(tmp_path)
    for _ in range(2):
        account.episode(0, "pick", fail(account, ValueError("broken")))
    with pytest.raises(evaluation.EveryEpisodeErrored, match=r"each of the 2 episodes.*ValueError: broken.*EVAL-x.txt"):
        account.finish()
    result = json.loads(file.read_text())
    assert result["complete"]
    assert result["success_rate"] == 0.0
    assert result["success_rate_completed"] is None


def test_failures_alone_are_no_error(tmp_path: Path, libero: Path) -> None:
    account, _, file = begin(tmp_path)
    account.episode(0, "pick", False)
    account.finish()
    assert json.loads(file.read_text())["success_rate_completed"] == 0.0


def test_asset_stand_ins_are_reported(tmp_path: Path, libero: Path, capsys: Any) -> None:
    assert begin(tmp_path)[0].settings["asset_standins"] == 0
    manifest = {"format": 1, "standins": {"a.msh": "a cube", "b.png": "one flat colour"}, "left_out": []}
    (libero / "graft-asset-standins.json").write_text(json.dumps(manifest))
    account, _, file = begin(tmp_path)
    account.finish()
    result = json.loads(file.read_text())
    assert result["asset_standins"] == 2
    assert result["stood_in"] == "plain shapes for 2 of LIBERO's assets"
    assert "2 assets are stand-ins" in capsys.readouterr().out


def test_unknown_assets_are_not_called_real(tmp_path: Path, libero: Path) -> None:
    libero.rmdir()
    assert evaluation.asset_standins() is None


@pytest.mark.parametrize(
    ("works", "sdpa", "expected"), [(True, True, "flash_attention_2"), (False, True, "sdpa"), (False, False, "eager")]
)
def test_attention(works: bool, sdpa: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(attention, "flash_attention_works", lambda: works)
    assert attention.attention_implementation(SimpleNamespace(_supports_sdpa=sdpa)) == expected
    assert (expected in capsys.readouterr().out) is not works, "a fallback is said, what upstream does is not"


def test_flash_attention_is_asked_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = ModuleType("transformers.utils")
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, "transformers.utils", utils)
    for answer in (True, False):
        utils.is_flash_attn_2_available = lambda answer=answer: answer  # type: ignore[attr-defined]
        assert attention.flash_attention_works() is answer


def play(account: Any, tasks: int, until: int | None = None) -> None:
    """Upstream's loop: in task i of two episodes the first is a success where i is even; interrupted after `until`."""
    played = 0
    for task_id in range(tasks):
        if account.kept(task_id):
            continue
        for episode in range(2):
            if played == until:
                return
            played += 1
            account.episode(task_id, f"task {task_id}", episode == 0 and task_id % 2 == 0)
    account.finish()


def test_an_interrupted_evaluation_goes_on_to_the_same_result(tmp_path: Path, libero: Path) -> None:
    whole, cut, rest = (tmp_path / name for name in ("whole", "cut", "rest"))
    for folder in (whole, cut, rest):
        folder.mkdir()
    account, tasks, expected = begin(whole, num_tasks=4)
    play(account, tasks)
    account, tasks, file = begin(cut, num_tasks=4)
    play(account, tasks, until=5)
    assert not json.loads(file.read_text())["complete"]
    account, tasks, found = begin(rest, num_tasks=4, resume_results=str(file))
    assert [task for task in range(4) if account.kept(task)] == [0, 1]
    # Killed before the next episode, nothing is lost.
    assert json.loads(found.read_text())["episodes"] == 4
    play(account, tasks)
    results = [json.loads(path.read_text()) for path in (expected, found)]
    for result in results:
        del result["log"]
    assert results[0] == results[1]
    assert results[0]["successes"] == 2


def test_errors_are_played_again_and_one_task_is_always_left(tmp_path: Path, libero: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    account, _, file = begin(first, num_tasks=3)
    account.episode(0, "a", fail(account, ValueError("broken")))
    account.episode(0, "a", True)
    for task in (1, 1, 2, 2):
        account.episode(task, "b", True)
    again, _, found = begin(second, num_tasks=3, resume_results=str(file))
    assert [again.kept(task) for task in range(3)] == [False, True, True]
    assert json.loads(found.read_text())["error_kinds"] == {}
    for _ in range(2):
        again.episode(0, "a", True)
    third = tmp_path / "third"
    third.mkdir()
    last, _, _ = begin(third, num_tasks=3, resume_results=str(found))
    assert [last.kept(task) for task in range(3)] == [True, True, False]


def test_results_of_other_settings_are_refused(tmp_path: Path, libero: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    account, tasks, file = begin(first)
    play(account, tasks, until=3)
    with pytest.raises(ValueError, match=r"had seed 3, this evaluation has 4.*resume_results"):
        begin(second, seed=4, resume_results=str(file))
