"""Probing while two ranks train: the same states, and the same training to the bit as without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import probe_rank
import pytest

HERE = Path(__file__).parent
OVERLAY = HERE.parents[1] / "overlays" / "openvla"
PATIENCE = 150  # seconds


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What two processes of our own say, on the loopback interface; both are ended whatever happens."""
    path = os.pathsep.join([str(OVERLAY), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    store = tmp_path_factory.mktemp("ranks") / "store"
    ranks = [
        subprocess.Popen(
            [sys.executable, probe_rank.__file__, str(rank), str(store)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    results: dict[str, list[dict[str, Any]]] = {wrapper: [] for wrapper in probe_rank.WRAPPERS}
    for rank, (output, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors[-3000:]
        for wrapper, _, line in (line.partition(" ") for line in output.splitlines()):
            if wrapper in results:
                results[wrapper].append(json.loads(line))
    return results


@pytest.mark.parametrize("wrapper", probe_rank.WRAPPERS)
def test_probing_between_backward_and_step_changes_nothing(said: dict[str, Any], wrapper: str) -> None:
    """FSDP keeps the weights that a forward without a backward gathers, and would train on them after the step."""
    assert len(said[wrapper]) == 2
    for result in said[wrapper]:
        assert result["exact"], "not the states of the model itself"
        assert result["own"], "every rank has a batch of its own"
        assert result["learnt"], "the loss must change at every step for the comparison to mean anything"
        assert result["same"], "the training is not the one without a probe"
        assert result["probes"] >= probe_rank.STEPS - 1
        assert result["blocks"] == result["probes"] * (max(probe_rank.LAYERS) + 1)
