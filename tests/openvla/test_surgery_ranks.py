"""Gradient surgery on gloo, with checkpointing and accumulation: DDP and FSDP on 1 and 2 ranks, hybrid FSDP on 4."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import surgery_ranks
import torch
from surgery_models import bases, batch, damped_model

HERE = Path(__file__).resolve().parent
OVERLAY = HERE.parents[1] / "overlays" / "openvla"
LAYERS, STEPS, BETA, GAMMA = (1, 3), 3, 0.5, 0.1


def start(size: int, folder: Path) -> list[dict[str, Any]]:
    path = os.pathsep.join([str(OVERLAY), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, surgery_ranks.__file__]
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


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return start(4, tmp_path_factory.mktemp("four"))


@pytest.fixture
def found(request: pytest.FixtureRequest, ranks: int) -> list[dict[str, Any]]:
    """What each of ``ranks`` ranks came to."""
    return request.getfixturevalue({1: "one", 2: "two", 4: "four"}[ranks])


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(line, probe_seconds=0) for line in lines]


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


HYBRID = "fsdp_hybrid_checkpoint"
MEASURED = ["ddp", "fsdp_grad_checkpoint", "fsdp_full_checkpoint"]
CASES = [*MEASURED, "ddp_checkpoint", "ddp_checkpoint_inside", "ddp_accumulate"]


@pytest.mark.parametrize(("kind", "ranks"), [*((kind, ranks) for kind in CASES for ranks in (1, 2)), (HYBRID, 4)])
def test_the_weights_are_what_one_process_without_hooks_comes_to(
    kind: str, ranks: int, found: list[dict[str, Any]]
) -> None:
    accumulate = 2 if kind == "ddp_accumulate" else 1
    weights, _ = expected(ranks, accumulate)
    for of_rank in found:
        assert of_rank[kind]["fired"] == [3, 1] * STEPS * accumulate
        assert set(of_rank[kind]["weights"]) == set(weights)
        for name, value in weights.items():
            torch.testing.assert_close(of_rank[kind]["weights"][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kind", "ranks"), [*((kind, 2) for kind in CASES), (HYBRID, 4)])
def test_logged_norms_are_of_the_whole_steps_gradient(kind: str, ranks: int, found: list[dict[str, Any]]) -> None:
    accumulate = 2 if kind == "ddp_accumulate" else 1
    _, gradients = expected(ranks, accumulate)
    assert [line["step"] for line in found[0][kind]["lines"]] == [0, 2]
    assert all(of_rank[kind]["lines"] == found[0][kind]["lines"] for of_rank in found)
    pieces = ranks * accumulate
    for line in found[0][kind]["lines"]:
        for layer, (uf, _) in bases(LAYERS).items():
            of_step = torch.cat(gradients[layer][line["step"] * pieces : (line["step"] + 1) * pieces])
            assert line["norms"][layer]["g"] == pytest.approx(float(of_step.norm()), rel=1e-6)
            assert line["norms"][layer]["gf"] == pytest.approx(float((of_step @ uf.double()).norm()), rel=1e-6)


@pytest.mark.parametrize(("kind", "ranks"), [*((kind, ranks) for kind in MEASURED for ranks in (1, 2)), (HYBRID, 4)])
def test_measuring_changes_no_bit_of_the_training(kind: str, ranks: int, found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        (plain_losses, plain), (losses, trained) = (of_rank[f"{kind}_probe"][name] for name in ("plain", "probe"))
        assert losses == plain_losses
        assert all(torch.equal(trained[name], plain[name]) for name in plain)
        drifts = [line["mean_drift"] for line in of_rank[f"{kind}_probe"]["lines"]]
        # Up to rounding: the teacher was pooled in one batch of seven, the student two by two.
        assert drifts[0] < 1e-5 < 1e-3 < drifts[1] < drifts[2]


@pytest.mark.parametrize(("kind", "ranks"), [*((kind, 2) for kind in MEASURED), (HYBRID, 4)])
def test_ranks_measure_and_steer_as_one_process_does(
    kind: str, ranks: int, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    """One process that is given all the ranks' batches, one after another."""
    surgery = functools.partial(surgery_ranks.measuring, surgery_ranks.LIMITS, tmp_path)
    _, weights, alone = surgery_ranks.run("alone", range(ranks), torch.float32, surgery)
    lines = timeless(found[0][f"{kind}_steering"]["lines"])
    assert all(timeless(of_rank[f"{kind}_steering"]["lines"]) == lines for of_rank in found)
    assert len(lines) == len(alone.lines) == STEPS
    for line, expected_line in zip(lines, alone.lines, strict=True):
        for name in ("mean_drift", "smoothed_drift", "next_beta", "next_gamma"):
            assert line[name] == pytest.approx(expected_line[name], rel=1e-4, abs=1e-5)
        for layer in LAYERS:
            assert line["drift"][layer] == pytest.approx(expected_line["drift"][layer], rel=1e-4, abs=1e-5)
            if "norms" in expected_line:
                assert line["norms"][layer] == pytest.approx(expected_line["norms"][layer], rel=1e-4)
    factors = [line["next_beta"] for line in lines]
    assert factors[0] == pytest.approx(0.8, abs=1e-4)
    assert factors[0] > factors[1] > factors[2] >= 0.2
    for of_rank in found:
        for name, value in weights.items():
            torch.testing.assert_close(of_rank[f"{kind}_steering"]["weights"][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_would_measure_different_numbers_steer_alike(found: list[dict[str, Any]]) -> None:
    first, *others = (of_rank["disagreeing"] for of_rank in found)
    assert first["lines"][2]["next_beta"] < 0.8
    for other in others:
        assert timeless(other["lines"]) == timeless(first["lines"])
        assert other["state"] == first["state"]
        assert all(torch.equal(other["weights"][name], first["weights"][name]) for name in first["weights"])
