"""Names, files that grow, runs that are resumed, several sources of one metric."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runners.supervise.metrics.curve import Curve
from runners.supervise.metrics.reader import Reader
from runners.supervise.metrics.row import Row, row_of
from tests.runners.supervise.metrics_files import Told, event_record, wandb_file

# Lines as the upstreams write them.
LLAMAFACTORY = {
    "current_steps": 4,
    "total_steps": 60,
    "loss": 4.5,
    "lr": 0.00475,
    "epoch": 0.25,
    "percentage": 6.67,
    "elapsed_time": "0:00:00",
}
PRISMATIC = {"VLA Train/Step": 7, "VLA Train/Epoch": 1, "VLA Train/Loss": 2.5, "VLA Train/Loss (Raw)": 2.75}
SURGERY = {
    "step": 5,
    "beta": 0.5,
    "norms": {"4": {"g": 0.5, "g_after": 0.25}},
    "drift": {"4": 0.125},
    "mean_drift": 0.375,
    "cold_start": True,
}


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def losses(steps: Sequence[int], level: float = 0.0) -> list[dict[str, float]]:
    return [{"step": step, "loss": level + step / 16} for step in steps]


RATES = {"learning_rate/vlm": 0.1, "learning_rate/base": 0.2}
LEVEL = {"total_steps": 60, "loss": 4.5, "learning_rate": 0.00475, "epoch": 0.25, "percentage": 6.67}
NORMS = {"gradient_norm/layer_4/g": 0.5, "gradient_norm/layer_4/g_after": 0.25}
SAGR = {"loss/fm": 0.25, "debug/grad_norm/cfm_group_l2": 1.5, "debug/sagr/drift_l2_mean": 0.75}
NAMED = [
    (LLAMAFACTORY, 4, LEVEL),
    ({"step": 3, "loss": 1.5, "learning_rate": 0.1}, 3, {"loss": 1.5, "learning_rate": 0.1}),
    ({"step": 3, "grad_norm": 2.5, "max_steps": 9}, 3, {"gradient_norm": 2.5, "total_steps": 9}),
    ({"step": 3, "eval_loss": 1.5, "eval_sort_loss": 2.5}, 3, {"eval_loss": 1.5, "eval_loss/sort": 2.5}),
    # transformers' summary of a whole training is no point of the curve.
    ({"step": 9, "train_loss": 2.0, "train_runtime": 3.0}, 9, {"train_loss": 2.0, "train_runtime": 3.0}),
    ({"_step": 10, "train_loss": 2.0, "l1_loss": 0.5}, 10, {"loss": 2.0, "l1_loss": 0.5}),
    ({"_step": 3, "train/global_step": 40, "train/loss": 2.0}, 40, {"loss": 2.0}),
    ({"step": 1, "train/grad_norm": 1.0, "eval/loss": 3.0}, 1, {"gradient_norm": 1.0, "eval_loss": 3.0}),
    (PRISMATIC, 7, {"epoch": 1, "loss": 2.5, "VLA Train/Loss (Raw)": 2.75}),
    (SURGERY, 5, {"beta": 0.5, **NORMS, "drift/layer_4": 0.125, "drift": 0.375}),
    ({"_step": 2, "surgery/norm_g_layer_4": 0.5, "surgery/norm_g_after_layer_4": 0.25}, 2, NORMS),
    ({"_step": 2, "surgery/drift_layer_4": 0.5, "surgery/drift": 0.25}, 2, {"drift/layer_4": 0.5, "drift": 0.25}),
    (
        {"_step": 2, "action_dit_loss": 0.5, "vlm_loss": 3.0, "loss/total": 0.5},
        2,
        {"loss": 0.5, "vlm_loss": 3.0, "loss/total": 0.5},
    ),
    ({"_step": 2, **RATES}, 2, {**RATES, "learning_rate": 0.2}),
    (
        {"step": 2, "stage": "imitation", "loss/total": 0.5, **SAGR},
        2,
        {"loss": 0.5, "loss/fm": 0.25, "gradient_norm/cfm": 1.5, "drift": 0.75},
    ),
    ({"_step": 2, "vlm_loss": 3.0}, 2, {"loss": 3.0}),
    ({"_step": 0, "success_rate/total": 0.75, "success_rate/cup": 1.0}, 0, {"success": 0.75, "success/cup": 1.0}),
]


@pytest.mark.parametrize(("written", "step", "values"), NAMED)
def test_one_name_for_each_thing(written: dict[str, Any], step: int, values: dict[str, float]) -> None:
    row = row_of(written)
    assert row is not None
    assert (row.step, dict(row.values)) == (step, values)


def test_a_row_without_a_step_is_none() -> None:
    assert row_of({"run_id": "x", "hparams": {"learning_rate": 0.1}}) is None
    assert row_of({"loss": 1.0}, step=3) == Row(3, {"loss": 1.0})


def test_a_half_written_line_waits(tmp_path: Path) -> None:
    told, path = Told(silent=True), tmp_path / "run" / "trainer_log.jsonl"
    reader = Reader(tmp_path / "run", ["trainer_log.jsonl"], say=told)
    assert reader.poll() == []
    append(path, losses([1, 2]))
    line = json.dumps({"step": 3, "loss": float("nan")}).encode() + b"\n"
    with path.open("ab") as file:
        file.write(line[:9])
    assert [row.step for row in reader.poll()] == [1, 2]
    with path.open("ab") as file:
        file.write(line[9:-1])
    assert reader.poll() == []
    with path.open("ab") as file:
        file.write(line[-1:])
    (row,) = reader.poll()
    assert (row.step, str(row.values["loss"]), row.source) == (3, "nan", "trainer_log.jsonl")
    assert reader.poll() == []


def test_damaged_lines_are_told_of_and_passed_over(tmp_path: Path) -> None:
    path, told = tmp_path / "metrics.jsonl", Told()
    append(path, losses([1]))
    start = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo\xff\n')
        # A kill cut a line short, and the resumed run went on in it.
        file.write(b'{"step": 3, "loss": {"a{"step": 2, "loss": 8.0}\n\n')
        file.write(b'[1, 2]\n{"loss": 3.0}\n{"loss": 3.5}\n')
    append(path, losses([4]))
    rows = Reader(tmp_path, ["metrics.jsonl"], say=told).poll()
    assert [(row.step, row.values["loss"]) for row in rows] == [(1, 1 / 16), (2, 8.0), (4, 4 / 16)]
    assert told[0] == f"{path}: the line at byte {start} is damaged"
    assert told[1] == f"{path}: the line at byte {start + 17} is damaged, its end was read"
    assert "is damaged" in told[2]
    assert "lines without a step" in told[3]
    assert len(told) == 4


def test_a_heading_without_a_step_is_passed_over(tmp_path: Path) -> None:
    append(tmp_path / "run.jsonl", [{"run_id": "run", "hparams": {}}, PRISMATIC])
    (row,) = Reader(tmp_path, ["*.jsonl"], say=Told(silent=True)).poll()
    assert row.step == 7


@pytest.mark.parametrize("again", ["shorter", "longer", "gone", "same"])
def test_a_file_that_a_resumed_run_wrote_anew_is_begun_anew(again: str, tmp_path: Path) -> None:
    path, told = tmp_path / "metrics.jsonl", Told(silent=True)
    append(path, losses([1, 2, 3, 4]))
    reader, curve = Reader(tmp_path, ["metrics.jsonl"], say=told), Curve()
    curve.add(reader.poll())
    assert [step for step, _ in curve.series("loss")] == [1, 2, 3, 4]
    kept = path.read_bytes().splitlines(keepends=True)[:2]
    if again == "gone":
        path.unlink()
        assert reader.poll() == []
    # As our overlay on openvla does it: the rows before the checkpoint in a new file, in place of the old one.
    (tmp_path / "new").write_bytes(b"".join(kept))
    os.replace(tmp_path / "new", path)
    append(path, losses([3], 9.0) if again == "shorter" else losses([3, 4, 5], 0.0 if again == "same" else 9.0))
    rows = reader.poll()
    curve.add(rows)
    new = 0.0 if again == "same" else 9.0
    expected = [(1, 1 / 16), (2, 2 / 16), (3, new + 3 / 16), (4, new + 4 / 16), (5, new + 5 / 16)]
    assert curve.series("loss") == (expected[:3] if again == "shorter" else expected)
    # The same bytes up to there say nothing new.
    assert len(rows) == {"shorter": 3, "longer": 5, "gone": 5, "same": 1}[again]


def test_rows_of_a_course_that_was_given_up_are_dropped() -> None:
    curve = Curve()
    curve.add([Row(step, {"loss": float(step)}, source="log") for step in (10, 20, 30, 40)])
    curve.add([Row(40, {"eval_loss": 4.5}, source="log"), Row(45, {"drift": 0.5}, source="other")])
    assert curve.series("loss") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)]
    assert curve.last == {"loss": 40.0, "eval_loss": 4.5, "drift": 0.5}
    # Resumed from step 20; logged again from 25 on: 30 and 40 are gone, though 25 replaces neither.
    curve.add([Row(25, {"loss": -25.0}, source="log")])
    assert curve.series("loss") == [(10, 10.0), (20, 20.0), (25, -25.0)]
    assert curve.series("eval_loss") == []
    assert curve.names == ["drift", "loss"]
    assert curve.series("drift") == [(45, 0.5)]
    curve.add([Row(25, {"loss": -26.0}, source="log"), Row(30, {"loss": -30.0}, source="log")])
    assert curve.series("loss") == [(10, 10.0), (20, 20.0), (25, -26.0), (30, -30.0)]
    assert curve.series("nothing") == []


def test_a_resumed_run_appends_an_earlier_step(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    reader, curve = Reader(tmp_path, ["trainer_log.jsonl"], say=Told(silent=True)), Curve()
    append(path, losses([10, 20, 30, 40]))
    curve.add(reader.poll())
    append(path, losses([30], 9.0))
    curve.add(reader.poll())
    append(path, losses([40, 50], 9.0))
    curve.add(reader.poll())
    assert curve.series("loss") == [(s, (9.0 if s > 20 else 0.0) + s / 16) for s in (10, 20, 30, 40, 50)]


def test_runs_of_wandb_are_read_in_time_order_and_once(tmp_path: Path) -> None:
    told = Told(silent=True)
    reader, curve = Reader(tmp_path, ["wandb/**/run-*.wandb"], say=told), Curve()

    def run(folder: str, steps: Sequence[int], level: float) -> None:
        path = tmp_path / "wandb" / f"offline-run-{folder}" / f"run-{folder[-1]}.wandb"
        path.parent.mkdir(parents=True)
        path.write_bytes(wandb_file([{"_step": step, "train_loss": level + step} for step in steps]))

    # The names of the runs say the contrary of their times.
    run("20260101_090000-z", [0, 10, 20, 30], 0.0)
    run("20260101_100000-a", [20, 30, 40], 0.5)
    (tmp_path / "wandb" / "latest-run").symlink_to("offline-run-20260101_100000-a")
    rows = reader.poll()
    assert [row.step for row in rows] == [0, 10, 20, 30, 20, 30, 40]
    curve.add(rows)
    run("20260102_000000-b", [40], 0.75)
    curve.add(reader.poll())
    assert curve.series("loss") == [(0, 0.0), (10, 10.0), (20, 20.5), (30, 30.5), (40, 40.75)]


def test_event_files_are_read_in_time_order(tmp_path: Path) -> None:
    for folder, began, step in (("Nov01_host", 1700000500, 2), ("Dec01_host", 1700000900, 3), ("Oct01_host", 99, 1)):
        path = tmp_path / "runs" / folder / f"events.out.tfevents.{began}.host.7.0"
        path.parent.mkdir(parents=True)
        path.write_bytes(event_record(step, "train/loss", 0.5))
    assert [row.step for row in Reader(tmp_path, ["runs/*/events*tfevents*"]).poll()] == [1, 2, 3]


def test_states_of_checkpoints_give_what_the_log_lacks(tmp_path: Path) -> None:
    def state(number: int) -> str:
        history = [{"step": s, "loss": 1.0, "grad_norm": s / 2, "learning_rate": 0.1} for s in range(1, number + 1)]
        return json.dumps({"global_step": number, "log_history": history})

    told = Told(silent=True)
    reader, curve = Reader(tmp_path, ["trainer_log.jsonl", "checkpoint-*/trainer_state.json"], say=told), Curve()
    append(tmp_path / "trainer_log.jsonl", losses(range(1, 12)))
    for number in (9, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(state(number))
    curve.add(reader.poll())
    assert curve.series("loss") == [(s, s / 16) for s in range(1, 12)]
    assert curve.series("gradient_norm") == [(s, s / 2) for s in range(1, 11)]
    later = tmp_path / "checkpoint-20" / "trainer_state.json"
    later.parent.mkdir()
    later.write_text(state(20)[:-30])
    assert reader.poll() == []
    later.write_text(state(20))
    curve.add(reader.poll())
    assert curve.series("gradient_norm") == [(s, s / 2) for s in range(1, 21)]


def test_what_two_sources_have_is_given_once(tmp_path: Path) -> None:
    path, run = tmp_path / "metrics.jsonl", tmp_path / "run-x.wandb"
    reader = Reader(tmp_path, ["metrics.jsonl", "run-*.wandb"], say=Told(silent=True))

    def poll() -> list[tuple[str, int, dict[str, float]]]:
        return [(row.source[0], row.step, dict(row.values)) for row in reader.poll()]

    both = [{"_step": step, "action_dit_loss": step / 16, "learning_rate/base": 0.5} for step in range(8)]
    append(path, [{"step": 0, "loss/total": 0.0}, {"step": 1, "loss/total": 1 / 16}])
    run.write_bytes(wandb_file(both[:2]))
    rate = {"learning_rate/base": 0.5, "learning_rate": 0.5}
    assert poll() == [("m", 0, {"loss": 0.0}), ("m", 1, {"loss": 1 / 16}), ("r", 0, rate), ("r", 1, rate)]
    # The other one gets ahead, and the first does not repeat it.
    run.write_bytes(wandb_file(both[:4]))
    assert poll() == [("r", 2, {"loss": 2 / 16, **rate}), ("r", 3, {"loss": 3 / 16, **rate})]
    append(path, [{"step": step, "loss/total": step / 16} for step in (2, 3)])
    assert poll() == []
    # The first goes back: it was resumed.
    append(path, [{"step": 1, "loss/total": 9.0}])
    assert poll() == [("m", 1, {"loss": 9.0})]


def test_a_pattern_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.csv: no metrics file that is known here; write \*.jsonl"):
        Reader(tmp_path, ["logs/train.csv"])


def test_folders_with_brackets_and_absolute_patterns(tmp_path: Path) -> None:
    output = tmp_path / "run[1]"
    append(output / "metrics.jsonl", losses([1]))
    append(tmp_path / "elsewhere" / "metrics.jsonl", [{"step": 2, "drift": 0.5}])
    rows = Reader(output, ["metrics.jsonl", str(tmp_path / "elsewhere" / "*.jsonl")]).poll()
    assert [row.step for row in rows] == [1, 2]
