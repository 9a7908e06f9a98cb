"""The readers of runners/supervise/metrics against wandb's and TensorBoard's own, on files that these write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runners.supervise.metrics.reader import Reader
from runners.supervise.metrics.row import Row
from tests.runners.supervise.library_metrics import ALL, event_file, scalars, wandb_run

# Longer than a block of 32 KiB, so that it is cut into first, middle and last.
LONG = [
    (step, {"train_loss": 1 / (1 + step), "text": "y" * size})
    for step, size in ((110, 70_000), (120, 9), (130, 40_000))
]
MANY = [(200 + step, {"train_loss": 2.0 ** -(step / 100), "l1_loss": step / 7}) for step in range(400)]


def refused(text: str) -> None:
    raise AssertionError(text)


def histories(path: Path) -> list[dict[str, Any]]:
    """Every row of the file as wandb's own reader has it."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), []
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append(
                {"/".join([item.key, *item.nested_key]).strip("/"): json.loads(item.value_json) for item in items}
            )
    store.close()
    return found


def test_wandb_file_is_read_as_wandb_reads_it(tmp_path: Path) -> None:
    logged = [*ALL, *LONG, *MANY]
    path = wandb_run(tmp_path, logged)
    assert path.stat().st_size > 4 * 32768
    rows = Reader(tmp_path, ["wandb/**/*.wandb"], say=refused).poll()
    theirs = histories(path)
    assert [row.step for row in rows] == [each["_step"] for each in theirs] == [step for step, _ in logged]
    for row, each in zip(rows, theirs, strict=True):
        assert row.wall == each["_timestamp"]
        assert repr(row.values["loss"]) == repr(float(each["train_loss"]))
        assert row.values.get("l1_loss") == each.get("l1_loss")
        assert row.values.get("probes/1/mean") == each.get("probes/1/mean")
        assert row.values.get("success") == each.get("success_rate/total")
        assert "text" not in row.values


def test_event_file_is_read_as_tensorboard_reads_it(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    polled: list[Row] = []
    counts: list[int] = []
    reader = Reader(tmp_path, ["*tfevents*"], say=refused)

    def watch() -> None:
        polled.extend(reader.poll())
        counts.append(len({row.step for row in polled}))

    logged = [*ALL, *MANY]
    event_file(tmp_path, logged, watch)
    polled += reader.poll()
    # Every row is there as soon as it was flushed.
    assert counts == list(range(1, len(logged) + 1))
    ours: dict[str, list[tuple[int, float, str]]] = {}
    names = {"loss": "train_loss", "success": "success_rate/total", "gradient_norm": "grad_norm"}
    for row in polled:
        for name, value in row.values.items():
            if name != "learning_rate":
                assert row.wall is not None
                ours.setdefault(names.get(name, name), []).append((row.step, row.wall, repr(value)))
    theirs: dict[str, list[tuple[int, float, str]]] = {}
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    for tag in tags["scalars"]:
        theirs[tag] = [(each.step, each.wall_time, repr(each.value)) for each in accumulator.Scalars(tag)]
    for tag in tags["tensors"]:
        found = [(each, tensor_util.make_ndarray(each.tensor_proto)) for each in accumulator.Tensors(tag)]
        numbers = [
            (each.step, each.wall_time, repr(float(a))) for each, a in found if a.dtype.kind == "f" and a.size == 1
        ]
        if numbers:
            theirs[tag] = sorted([*theirs.get(tag, []), *numbers])
    assert {tag: sorted(found) for tag, found in ours.items()} == {tag: sorted(found) for tag, found in theirs.items()}
    assert set(theirs) == {name for _, values in logged for name in scalars(values)}
