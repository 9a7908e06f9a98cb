"""The probe set and the subspaces by their commands, from the real pipeline and of the real model class."""

from __future__ import annotations

import json
from pathlib import Path

import native
import pytest


def samples(probe: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (probe / "probe.jsonl").read_text().splitlines()]


def test_probe_samples_are_frames_and_instructions_of_the_data_set(materials: Path, probe: Path) -> None:
    import numpy
    import tiny_episodes
    from PIL import Image

    rows = samples(probe)
    assert len(rows) == 24
    known = {instruction.lower() for instruction in tiny_episodes.INSTRUCTIONS}
    assert {row["instruction"] for row in rows} <= known
    # Frames as they were before JPEG: a picture under augmentation, or of the other camera, is far from all of them.
    frames = numpy.stack(
        [
            tiny_episodes.picture(episode, step, seed=7)
            for episode in range(len(tiny_episodes.INSTRUCTIONS))
            for step in range(tiny_episodes.STEPS)
        ]
    ).astype(float)
    for row in rows:
        [image] = [value for value in row.values() if value.endswith(".png")]
        picture = numpy.asarray(Image.open(probe / image).convert("RGB"), float)
        distances = abs(frames - picture).mean(axis=(1, 2, 3))
        assert distances.min() < 3
        episode = int(distances.argmin()) // tiny_episodes.STEPS
        assert row["instruction"] == tiny_episodes.INSTRUCTIONS[episode].lower()


def test_the_same_seed_gives_the_same_probe_set_and_another_seed_another(
    grafted: Path, materials: Path, probe: Path, tmp_path: Path
) -> None:
    def hash_of(folder: Path) -> str:
        return json.loads((folder / "meta.json").read_text())["hash"]

    for seed in (7, 8):
        native.run(grafted, tmp_path, *native.probe_command(materials, seed), "--out", tmp_path / str(seed))
    assert hash_of(tmp_path / "7") == hash_of(probe)
    assert hash_of(tmp_path / "8") != hash_of(probe)


def test_subspaces_are_orthonormal_and_say_where_they_come_from(grafted: Path, probe: Path, subspaces: Path) -> None:
    import torch

    meta = json.loads((subspaces / "meta.json").read_text())
    assert meta["upstream_commit"].startswith("c8f03f48af69")
    assert "What action should the robot take to" in meta["template"]
    assert meta["probe"]["hash"] == json.loads((probe / "meta.json").read_text())["hash"]
    for layer in ("1", "2"):
        fragile, plastic = (torch.load(subspaces / layer / f"{name}.pt", weights_only=True) for name in ("Uf", "Up"))
        both = torch.cat([fragile, plastic], dim=1).double()
        assert both.shape[0] == 64
        assert fragile.shape[1] > 0 < plastic.shape[1]
        assert torch.allclose(both.T @ both, torch.eye(both.shape[1]).double(), atol=1e-5)


def test_fisher_orders_directions_as_finite_differences_do(
    grafted: Path, materials: Path, probe: Path, subspaces: Path, tmp_path: Path
) -> None:
    import torch

    command = ["-m", "research.icms.offline_icms", "--vla_path", materials / "openvla-tiny", "--probe", probe]
    shape = ["--layers", "1,2", "--groups", "1:0-1", "--r", 12, "--method", "finite_difference", "--epsilon", 0.01]
    native.run(grafted, tmp_path, *command, *shape, "--out", "reference")

    def vulnerabilities(folder: Path, layer: str) -> torch.Tensor:
        return torch.tensor(json.loads((folder / "meta.json").read_text())["layers"][layer]["vulnerabilities"])

    for layer in ("1", "2"):
        fast, slow = (vulnerabilities(folder, layer) for folder in (subspaces, tmp_path / "reference"))
        ranks = [values.argsort().argsort().double() for values in (fast, slow)]
        assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.9


def test_a_command_that_cannot_work_writes_nothing(grafted: Path, materials: Path, tmp_path: Path) -> None:
    command = ["-m", "research.icms.offline_icms", "--vla_path", materials / "openvla-tiny", "--out", "out"]
    with pytest.raises(AssertionError, match="no_such_probe"):
        native.run(grafted, tmp_path, *command, "--probe", tmp_path / "no_such_probe", "--layers", "1")
    assert not (tmp_path / "out").exists()
