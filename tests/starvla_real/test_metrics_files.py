"""The reader of wandb's files on what wandb 0.31 writes, while it writes. That version has no reader in Python."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runners.supervise.metrics.reader import Reader
from runners.supervise.metrics.row import Row
from tests.runners.supervise.library_metrics import ALL, wandb_run
from tests.runners.supervise.metrics_files import same

LONG = [
    (step, {"train_loss": 1 / (1 + step), "text": "y" * size})
    for step, size in ((110, 70_000), (120, 9), (130, 40_000))
]


def refused(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("encoding", ["json", "json,typed"])
def test_rows_of_a_running_run(encoding: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path, ["wandb/**/*.wandb"], say=refused)
    found: list[Row] = []
    begun = 0

    def wait_for(number: int) -> None:
        until = time.monotonic() + 60
        while len(found) < number and time.monotonic() < until:
            time.sleep(0.02)
            found.extend(reader.poll())
        assert len(found) == number

    def watch() -> None:
        nonlocal begun
        begun += 1
        # A row is written when the next step begins, and flushed a moment later.
        wait_for(begun - 1)

    logged = [*ALL, *LONG]
    settings = {"x_transaction_log_flush_interval": 0.05, "x_history_value_encoding": encoding}
    path = wandb_run(tmp_path, logged, watch, **settings)
    # finish() may return before the last block is written.
    wait_for(len(logged))
    assert path.stat().st_size > 4 * 32768
    assert [row.step for row in found] == [step for step, _ in logged]
    names = {"train_loss": "loss", "success_rate/total": "success", "grad_norm": "gradient_norm"}
    for row, (_, values) in zip(found, logged, strict=True):
        flat = {names.get(name, name): float(v) for name, v in values.items() if type(v) in (int, float)}
        if "probes" in values:
            flat |= {"probes/1/mean": float(values["probes"]["1"]["mean"]), "learning_rate": flat["learning_rate/base"]}
        assert same(row.values, flat)
        assert row.wall is not None
        assert abs(row.wall - time.time()) < 60
