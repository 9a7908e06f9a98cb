"""Two ranks over gloo, as DistributedSampler and accelerate deal samples to them: one file, that of one rank alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import probe_ranks
import pytest
import torch
from infodyn.probe_file import probe_path, read_probe_file

PATIENCE = 400  # seconds, of which most go into importing torch on a busy machine


def run(size: int, folder: Path) -> list[str]:
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, probe_ranks.__file__, str(rank), str(size), str(folder / "store"), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors[-3000:]
    return [output for output, _ in said]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[str]]]:
    root = tmp_path_factory.mktemp("probe_ranks")
    return {size: (root / str(size), run(size, root / str(size))) for size in (1, 2)}


@pytest.mark.parametrize("dealt", ["samples", "batches", "whole"])
def test_two_ranks_write_what_one_does(folders: dict[int, tuple[Path, list[str]]], dealt: str) -> None:
    """23 samples in batches of 4: the loaders repeat samples to fill the last ones, and these count once."""
    one, two = (read_probe_file(probe_path(folders[size][0] / dealt, "p", 1)) for size in (1, 2))
    assert [each.name for each in (folders[2][0] / dealt / "probes" / "p").iterdir()] == ["epoch_1.pt.gz"]
    assert one["metadata"]["expert_activation_counts"] == two["metadata"]["expert_activation_counts"]
    counts = two["metadata"]["expert_activation_counts"]["blocks.0.moe.experts"]
    assert sum(counts.values()) == probe_ranks.SAMPLES * 7 * 2
    for key in ("sample", "token"):
        assert torch.equal(one["metadata"]["rows"][key], two["metadata"]["rows"][key])
    for path, routed in one["metadata"]["rows"]["routed_experts"].items():
        assert torch.equal(routed, two["metadata"]["rows"]["routed_experts"][path])
    assert torch.equal(one["labels"], two["labels"])
    for side in ("source_activations", "target_activations"):
        for path, values in one[side].items():
            torch.testing.assert_close(values, two[side][path])


def test_two_ranks_share_kept_samples(folders: dict[int, tuple[Path, list[str]]]) -> None:
    one, two = (read_probe_file(probe_path(folders[size][0] / "kept", "p", 1)) for size in (1, 2))
    assert set(two["metadata"]["rows"]["sample"].tolist()) == set(range(9))
    assert one["metadata"]["expert_activation_counts"] == two["metadata"]["expert_activation_counts"]
    assert sum(two["metadata"]["expert_activation_counts"]["blocks.0.moe.experts"].values()) == 9 * 7 * 2
    for side in ("source_activations", "target_activations"):
        for path, values in one[side].items():
            torch.testing.assert_close(values, two[side][path])


def test_a_failure_on_one_rank_is_told_on_both(folders: dict[int, tuple[Path, list[str]]]) -> None:
    for said in folders[2][1]:
        assert "told rank 0:" in said
        assert "probes" in said
