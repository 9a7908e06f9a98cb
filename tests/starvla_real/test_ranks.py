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
import torch
from test_probes import SPEC

from tests.analysed import contents

RANKS, LIMIT = 2, 400
LOSSES = ("w_fm", "w_dyn", "w_geo", "w_reg", "w_align")
EVERY = (*native.ON, *(f"--framework.sagr.losses.{name}=1" for name in LOSSES))


def dynamics() -> tuple[str, ...]:
    """The stage that freezes everything but the world predictor, from scratch."""
    from starVLA.sagr.stages import STAGES, overrides

    (stage,) = (each for each in STAGES if each.name == "dynamics")
    said = [each for each in overrides(stage, "none", feedback=True) if "pretrained_checkpoint" not in each]
    return (*native.ON, *said)


def train(
    checkout: Path,
    folder: Path,
    materials: Path,
    options: tuple[str, ...] = (),
    framework: str = native.FRAMEWORK,
    **more: str,
) -> list[list[dict[str, Any]]]:
    """train_starvla.py on RANKS processes; what each wrote after every step. Fails where one fails or is not done.

    ``more`` are environment variables; see ranked.py.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = native.configuration(materials, folder / "runs", framework)
    (folder / "config.yaml").write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = [str(native.HERE / "ranked.py"), str(native.SEED), str(folder), str(checkout / native.SCRIPT)]
    command = [sys.executable, *script, "--config_yaml", str(folder / "config.yaml"), *options]
    group = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes, logs = [], [folder / f"{rank}.log" for rank in range(RANKS)]
    for rank, log in enumerate(logs):
        own = {**native.environment(checkout), **group, **more, "RANK": str(rank), "LOCAL_RANK": str(rank)}
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
def test_both_ranks_train_alike_and_as_one_does_and_metrics_are_written_once(
    case: str, grafted: Path, materials: Path, tmp_path: Path
) -> None:
    first, second = train(grafted, tmp_path, materials, EVERY if case == "every" else dynamics(), ONE="1")
    assert len(first) == len(second) == native.STEPS
    assert [line["weights"] for line in first] == [line["weights"] for line in second]
    # The scheduler's first rate is 0.
    assert len({line["weights"] for line in first}) >= native.STEPS - 1
    # Otherwise equality would prove nothing.
    assert all(one["loss"] != other["loss"] for one, other in zip(first, second, strict=True))
    # Upstream seeds noise and data by rank, so that no run of one rank draws what two do: the step is computed again.
    assert 0.0 < first[-1]["apart"] < 1e-5
    rows = [json.loads(line) for line in (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, native.STEPS + 1))
    # The last row is of the step that was computed again.
    assert [row["loss/total"] for row in rows[:-1]] == [float.fromhex(line["loss"]) for line in first[:-1]]


def test_off_on_two_ranks_is_the_upstream_bit_for_bit(
    grafted: Path, pristine: Path, materials: Path, tmp_path: Path
) -> None:
    upstream = train(pristine, tmp_path / "upstream", materials, framework="QwenPI")
    off = train(grafted, tmp_path / "off", materials, framework="QwenPI")
    assert len({line["weights"] for line in upstream[0]}) >= native.STEPS - 1
    assert upstream[0] != upstream[1]
    assert off == upstream
    native.same_bytes(*(tmp_path / name / "runs" / "run" / "final_model" for name in ("off", "upstream")))


def test_two_ranks_probe_what_one_does_and_train_as_without(grafted: Path, materials: Path, tmp_path: Path) -> None:
    """The model before training is the same, and so are the samples that were picked and their noise."""
    probes = json.dumps({"probes": [SPEC], "validation_subset_size": 9, "tokens_per_sample": 8})
    option = f"--trainer.probes={probes}"
    alone = native.train(grafted, tmp_path / "one", materials, option)
    ranks = train(grafted, tmp_path / "two", materials, (option,), framework="QwenPI")
    without = train(grafted, tmp_path / "without", materials, framework="QwenPI")
    assert ranks == without
    one, two = (contents(run / "probes" / "dit", 3)[0] for run in (alone.output, tmp_path / "two" / "runs" / "run"))
    for key in ("sample", "token"):
        assert torch.equal(one["metadata"]["rows"][key], two["metadata"]["rows"][key])
    assert one["source_activations"].keys() == two["source_activations"].keys()
    for path, values in one["source_activations"].items():
        torch.testing.assert_close(two["source_activations"][path], values)
