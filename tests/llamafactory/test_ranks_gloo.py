"""HSA and the schedule on two ranks over gloo, without a run: what must be equal is, and what differs is told."""

import json
import math
import os
import subprocess
import sys

import pytest
import tiny

tiny.require()

import gloo_ranks  # noqa: E402

PATIENCE = 400  # seconds, of which most go into importing torch on a busy machine


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, gloo_ranks.__file__]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "store"), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-3000:] for text in said)
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_hsas_gradient_is_that_of_the_whole_batch(found):
    for each in found:
        assert 0.0 < each["hsa"] < 1e-5


def test_both_ranks_measure_the_sums_of_both_and_choose_alike(found):
    first, second = found
    assert first["seen"] == second["seen"]
    assert set(first["seen"]) == {"a", "b"}
    assert first["history"] == second["history"]
    for task, loss in {"a": 1.0 + 2.0, "b": 8.0 + 7.0}.items():
        for entry in first["history"][task]:
            assert entry["tokens"] == 7
            assert entry["avg_loss"] == pytest.approx(loss / 7, rel=1e-14)
            assert entry["avg_entropy"] == pytest.approx(4 / 7, rel=1e-14)
            assert entry["avg_accuracy"] == pytest.approx(1 / 7, rel=1e-14)
    # Losses 2 and 6 of four tokens each, entropy 4 on both: epsilon / tau = 8 / 8.
    trained = [entry["train_pi"] for entries in first["history"].values() for entry in entries if entry["train_steps"]]
    assert trained == pytest.approx([math.exp(-0.5)] * 3, rel=1e-14)


def test_ranks_that_choose_apart_are_told_on_both(found):
    for rank, each in enumerate(found):
        assert f"this one chose {'ab'[rank]}" in each["told"]
        assert "ranks chose different tasks" in each["told"]
