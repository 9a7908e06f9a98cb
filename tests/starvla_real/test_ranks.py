"""The method on two ranks of upstream's own trainer: DeepSpeed's ZeRO 2 over gloo, each rank with data of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import native
import pytest

RANKS, LIMIT = 2, 400
LOSSES = ("w_fm", "w_dyn", "w_geo", "w_reg", "w_align")
EVERY = (*native.ON, *(f"--framework.sagr.losses.{name}=1" for name in LOSSES))


def dynamics() -> tuple[str, ...]:
    """The stage that freezes everything but the world predictor, from scratch."""
    from starVLA.sagr.stages import STAGES, overrides

    (stage,) = (each for each in STAGES if each.name == "dynamics")
    said = [each for each in overrides(stage, "none", feedback=True) if "pretrained_checkpoint" not in each]
    return (*native.ON, *said)


def train(checkout: Path, folder: Path, materials: Path, options: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """train_starvla.py on RANKS processes; what each wrote after every step. Fails where one fails or is not done."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = native.configuration(materials, folder / "runs", native.FRAMEWORK)
    (folder / "config.yaml").write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = [str(native.HERE / "ranked.py"), str(native.SEED), str(folder), str(checkout / native.SCRIPT)]
    command = [sys.executable, *script, "--config_yaml", str(folder / "config.yaml"), *options]
    group = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes, logs = [], [folder / f"{rank}.log" for rank in range(RANKS)]
    for rank, log in enumerate(logs):
        own = {**native.environment(checkout), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("wb") as out:
            processes.append(
                subprocess.Popen(
                    command, cwd=folder, env=own, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
                )
            )
    try:
        end = time.monotonic() + LIMIT
        # One that failed leaves the other waiting for it.
        while any(each.poll() is None for each in processes) and not any(each.returncode for each in processes):
            assert time.monotonic() < end, [log.read_text()[-2000:] for log in logs]
            time.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    assert codes == [0] * RANKS, [log.read_text()[-4000:] for log in logs]
    written = [(folder / f"{rank}.jsonl").read_text().splitlines() for rank in range(RANKS)]
    return [[json.loads(line) for line in lines] for lines in written]


@pytest.mark.parametrize("case", ["every", "dynamics"])
def test_weights_are_equal_on_both_ranks_and_metrics_are_written_once(
    case: str, grafted: Path, materials: Path, tmp_path: Path
) -> None:
    first, second = train(grafted, tmp_path, materials, EVERY if case == "every" else dynamics())
    assert len(first) == len(second) == native.STEPS
    assert [line["weights"] for line in first] == [line["weights"] for line in second]
    # The scheduler's first rate is 0.
    assert len({line["weights"] for line in first}) >= native.STEPS - 1
    # Otherwise equality would prove nothing.
    assert all(one["loss"] != other["loss"] for one, other in zip(first, second, strict=True))
    rows = [json.loads(line) for line in (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, native.STEPS + 1))
    assert [row["loss/total"] for row in rows] == [float.fromhex(line["loss"]) for line in first]
