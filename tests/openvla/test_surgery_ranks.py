"""Gradient surgery under DDP (1 and 2 ranks) and FSDP (2 ranks), on gloo, with checkpointing and accumulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from surgery_models import bases, batch, damped_model

HERE = Path(__file__).resolve().parent
OVERLAY = HERE.parents[1] / "overlays" / "openvla"
LAYERS, STEPS, BETA, GAMMA = (1, 3), 3, 0.5, 0.1


def start(size: int, folder: Path) -> list[dict[str, Any]]:
    path = os.pathsep.join([str(OVERLAY), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "surgery_ranks.py")]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n\n".join(text[-3000:] for text in said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return start(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return start(1, tmp_path_factory.mktemp("one"))


def expected(ranks: int, accumulate: int = 1) -> tuple[dict[str, torch.Tensor], dict[int, list[torch.Tensor]]]:
    """Weights after the same steps in one process, with the surgery as autograd functions; gradients by layer."""
    basis = bases(LAYERS)
    model = damped_model(0, basis, BETA, GAMMA).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}

    for layer in LAYERS:
        model.between[layer] = watched(model.between[layer], before[layer])
    for step in range(STEPS):
        for rank in range(ranks):
            for micro in range(accumulate):
                loss = model(**batch(2, 100 * step + 10 * micro + rank))["loss"]
                (loss / (ranks * accumulate)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}, before


def watched(inner: Any, kept: list[torch.Tensor]) -> Any:
    """``inner``, with the gradient that arrives at it, before it is damped, added to ``kept``."""

    def between(hidden: torch.Tensor) -> torch.Tensor:
        out = inner(hidden)
        out.register_hook(lambda gradient: kept.append(gradient.clone()))
        return out

    return between


CASES = ["ddp", "ddp_checkpoint", "ddp_checkpoint_inside", "fsdp_checkpoint", "fsdp_full_checkpoint"]


@pytest.mark.parametrize("kind", [*CASES, "ddp_accumulate"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_weights_are_what_one_process_without_hooks_comes_to(
    kind: str, ranks: int, one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    accumulate = 2 if kind == "ddp_accumulate" else 1
    weights, _ = expected(ranks, accumulate)
    for found in (one, two)[ranks - 1]:
        assert found[kind]["fired"] == [3, 1] * STEPS * accumulate
        assert set(found[kind]["weights"]) == set(weights)
        for name, value in weights.items():
            torch.testing.assert_close(found[kind]["weights"][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [*CASES, "ddp_accumulate"])
def test_logged_norms_are_of_the_whole_steps_gradient(kind: str, two: list[dict[str, Any]]) -> None:
    accumulate = 2 if kind == "ddp_accumulate" else 1
    _, gradients = expected(2, accumulate)
    assert [line["step"] for line in two[0][kind]["lines"]] == [0, 2]
    assert two[0][kind]["lines"] == two[1][kind]["lines"]
    pieces = 2 * accumulate
    for line in two[0][kind]["lines"]:
        for layer, (uf, _) in bases(LAYERS).items():
            of_step = torch.cat(gradients[layer][line["step"] * pieces : (line["step"] + 1) * pieces])
            assert line["norms"][layer]["g"] == pytest.approx(float(of_step.norm()), rel=1e-6)
            assert line["norms"][layer]["gf"] == pytest.approx(float((of_step @ uf.double()).norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["ddp", "fsdp_checkpoint", "fsdp_full_checkpoint"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_measuring_changes_no_bit_of_the_training(
    kind: str, ranks: int, one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    for found in (one, two)[ranks - 1]:
        (plain_losses, plain), (losses, trained) = found[f"{kind}_probe"]["plain"], found[f"{kind}_probe"]["probe"]
        assert losses == plain_losses
        assert all(torch.equal(trained[name], plain[name]) for name in plain)
        drifts = [line["mean_drift"] for line in found[f"{kind}_probe"]["lines"]]
        # Up to rounding: the teacher was pooled in one batch of seven, the student two by two.
        assert drifts[0] < 1e-5 < 1e-3 < drifts[1] < drifts[2]


@pytest.mark.parametrize("kind", ["ddp", "fsdp_checkpoint", "fsdp_full_checkpoint"])
def test_two_ranks_measure_what_one_would_and_steer_alike(
    kind: str, one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    steered = [[dict(line, probe_seconds=0) for line in found[f"{kind}_steering"]["lines"]] for found in two]
    assert steered[0] == steered[1]
    factors = [line["next_beta"] for line in steered[0]]
    assert factors[0] == pytest.approx(0.8, abs=1e-4)
    assert factors[0] > factors[1] > factors[2] >= 0.2
    alone = [line["mean_drift"] for line in one[0][f"{kind}_steering"]["lines"]]
    assert steered[0][0]["mean_drift"] == pytest.approx(alone[0], abs=1e-5)


def test_ranks_that_would_measure_different_numbers_steer_alike(two: list[dict[str, Any]]) -> None:
    first, second = (found["disagreeing"] for found in two)
    assert [dict(line, probe_seconds=0) for line in first["lines"]] == [
        dict(line, probe_seconds=0) for line in second["lines"]
    ]
    assert first["state"] == second["state"]
    assert first["lines"][2]["next_beta"] < 0.8
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
