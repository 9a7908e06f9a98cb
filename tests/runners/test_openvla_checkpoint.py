"""The checkpoint that an evaluation sees, and the scores that are read from its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runners.openvla_checkpoint import NoCheckpoint, statistics_of, trained_in, view
from runners.openvla_scores import Unreadable, read_score, why_unusable


def checkpoint(folder: Path, known: dict[str, Any], trained: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"norm_stats": known}), encoding="utf-8")
    (folder / "dataset_statistics.json").write_text(json.dumps(trained), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_view_links_the_weights_and_knows_every_suite(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "run", {"libero_object": 1, "libero_spatial": 2}, {"libero_spatial": 3})
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps({"libero_goal": 4, "libero_spatial": 5}), encoding="utf-8")
    view(made, tmp_path / "view", "libero_goal", [extra])
    known = json.loads((tmp_path / "view" / "dataset_statistics.json").read_text(encoding="utf-8"))
    assert known == {"libero_object": 1, "libero_goal": 4, "libero_spatial": 3}
    assert (tmp_path / "view" / "model.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "view" / "model.safetensors").is_symlink()
    assert json.loads((made / "dataset_statistics.json").read_text(encoding="utf-8")) == {"libero_spatial": 3}


def test_an_unknown_suite_is_refused_with_the_remedy_and_nothing_is_made(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "run", {"libero_object": 1}, {"libero_spatial_no_noops": 2})
    view(made, tmp_path / "good", "libero_spatial")
    with pytest.raises(NoCheckpoint, match="--statistics"):
        view(made, tmp_path / "view", "libero_goal")
    assert not (tmp_path / "view").exists()


def test_a_model_without_statistics_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert statistics_of(tmp_path) == {}


def test_there_is_one_checkpoint_or_a_complaint(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpoint, match="0 merged"):
        trained_in(tmp_path / "runs")
    made = checkpoint(tmp_path / "runs" / "a", {}, {})
    assert trained_in(tmp_path / "runs") == made
    checkpoint(tmp_path / "runs" / "b", {}, {})
    with pytest.raises(NoCheckpoint, match="a, b"):
        trained_in(tmp_path / "runs")


RESULT = {"complete": True, "task_suite_name": "s", "episodes": 10, "successes": 6, "errors": 2, "stood_in": ""}


def result(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "x.results.json"
    path.write_text(json.dumps(RESULT | changes), encoding="utf-8")
    return path


def test_success_is_over_the_episodes_that_ended_without_an_error(tmp_path: Path) -> None:
    score = read_score(result(tmp_path, stood_in="plain shapes for 3 of LIBERO's assets"))
    assert (score.success, score.episodes, score.errors) == (0.75, 10, 2)
    assert score.stood_in == "plain shapes for 3 of LIBERO's assets"


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"complete": False}, "come to its end"), ({"errors": 10}, "every one"), ({"episodes": None}, "TypeError")],
)
def test_a_result_that_says_nothing_is_not_read_as_zero(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    path = result(tmp_path, **changes)
    with pytest.raises(Unreadable, match=word):
        read_score(path)
    assert word in str(why_unusable(path))


def test_no_result_is_a_complaint() -> None:
    assert "pack `eval`" in str(why_unusable(None))
