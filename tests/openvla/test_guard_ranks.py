"""The input guard on two ranks of gloo: one basis and one adapter on both, those of one process in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import guard_ranks
import numpy as np
import pytest
import torch
from guard_models import directions, model_with_lora, whole_inputs
from research.hooks.input_guard import lora_layers

HERE = Path(__file__).resolve().parent
OVERLAY = HERE.parents[1] / "overlays" / "openvla"
SIZE, PATIENCE = 2, 120  # ranks, seconds


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank came to, on the loopback interface; both are ended whatever happens."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(OVERLAY), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, guard_ranks.__file__, str(rank), str(SIZE), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in running), "\n\n".join(text[-3000:] for text in said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


@pytest.fixture(scope="module")
def alone() -> list[dict[str, np.ndarray[Any, Any]]]:
    """U of each layer from the SVD of all inputs in float64, by whose probe set it is."""
    model = model_with_lora().double()
    sets = [guard_ranks.probes(rank) for rank in range(SIZE)]
    for batch in (batch for of_rank in sets for batch in of_rank):
        batch.pixel_values = batch.pixel_values.double()
    layers = lora_layers(model)
    return [{name: directions(x) for name, x in whole_inputs(model, layers, of_rank).items()} for of_rank in sets]


def test_the_bases_are_the_main_ranks_on_all_ranks(
    found: list[dict[str, Any]], alone: list[dict[str, np.ndarray[Any, Any]]]
) -> None:
    main, other = (of_rank["bases"] for of_rank in found)
    assert list(main) == list(other) == list(alone[0])
    for name, wanted in alone[0].items():
        assert torch.equal(main[name], other[name])
        assert main[name].shape == wanted.shape
        basis = main[name].double().numpy()
        assert np.abs(basis @ basis.T - wanted @ wanted.T).max() < 1e-4
        # What the second rank would have measured is something else.
        assert np.abs(wanted @ wanted.T - alone[1][name] @ alone[1][name].T).max() > 1e-2
    assert any(alone[0][name].shape != alone[1][name].shape for name in main), "the numbers of directions differ too"


def test_the_adapters_are_one_processs_with_the_ranks_data(
    found: list[dict[str, Any]], alone: list[dict[str, np.ndarray[Any, Any]]]
) -> None:
    """Each first factor A becomes A - A U U^T after every step, in float64."""
    main, other = (of_rank["end"] for of_rank in found)
    model = model_with_lora().double()
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert factors.keys() == main.keys()
    bases = {f"{name}.lora_A.default.weight": torch.tensor(basis) for name, basis in alone[0].items()}
    assert bases.keys() <= factors.keys()

    @torch.no_grad()
    def project() -> None:
        for name, basis in bases.items():
            factors[name].sub_(factors[name] @ basis @ basis.T)

    project()
    guard_ranks.train(model, range(SIZE), after=project)
    for name, wanted in factors.items():
        assert torch.equal(main[name], other[name])
        np.testing.assert_allclose(main[name].numpy(), wanted.detach().numpy(), rtol=1e-3, atol=1e-4)
        moved = (wanted.detach() - found[0]["start"][name].double()).abs().max()
        assert moved > 1e-2, f"{name} has hardly moved"
