"""The input guard: which directions it holds, that LoRA is silent on them after any step, and what it refuses."""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from guard_models import ACTIONS, Answering, directions, model_with_lora, probe_batch, whole_inputs
from peft import LoraConfig, get_peft_model
from research.config import SurgeryConfig, ThermostatConfig
from research.hooks.input_basis import Answered, Inputs, basis_of, groups_of, inputs_of
from research.hooks.input_guard import InputGuard, lora_layers
from research.probe.batch import ProbeBatch
from research.ranks import Ranks
from surgery_models import HIDDEN, PATCHES
from torch import nn

ALONE = Ranks(None, torch.device("cpu"))
GRAM = 8 * HIDDEN**2
"""Bytes of a layer's Gram matrix."""


def span(basis: Any) -> np.ndarray[Any, Any]:
    """The projection onto what ``basis`` ``[D, k]`` spans, which no order or sign of its vectors changes."""
    wide = np.asarray(basis, dtype=np.float64)
    return wide @ wide.T


@pytest.mark.parametrize("rows", [50, 5])
def test_the_basis_is_the_fewest_directions_that_hold_the_share(rows: int) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((rows, 8)) * np.array([9, 5, 3, 1, 0.5, 0.3, 0.1, 0.1])
    gram = torch.tensor(inputs.T @ inputs)
    for share in (0.5, 0.9, 0.99, 0.9999, 1 - 1e-9):
        basis, wanted = basis_of(gram, share).numpy(), directions(inputs, share)
        assert basis.shape == wanted.shape
        assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < 1e-12
        assert np.abs(span(basis) - span(wanted)).max() < 1e-9


def test_a_sum_over_batches_is_the_whole_inputs_with_the_models_own_answer_behind_each_prompt() -> None:
    model, batches = model_with_lora(), [probe_batch(seed) for seed in range(4)]
    layers = lora_layers(model)
    assert len(layers) == 10
    state = torch.get_rng_state()
    kept = inputs_of(model, layers, Answered(model, lambda: batches, ACTIONS), rows=1000, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    found = {name: of_layer.gram for name, of_layer in kept.items()}
    for name, inputs in whole_inputs(model, layers, batches).items():
        # Patches, prompt and two of three action tokens (the third has no successor), without padding.
        assert len(inputs) == 4 * (3 * PATCHES + (4 + 6 + 5) + 3 * 2)
        assert found[name].dtype == torch.float64
        np.testing.assert_allclose(found[name].numpy(), inputs.T @ inputs, rtol=1e-5, atol=1e-4)
        for share in (0.5, 0.9, 0.99):
            basis, wanted = basis_of(found[name], share), directions(inputs, share)
            assert basis.shape == wanted.shape
            assert np.abs(span(basis) - span(wanted)).max() < 1e-4


def test_more_padding_changes_nothing_and_rows_are_so_many_of_a_batch() -> None:
    model, batch = model_with_lora(), probe_batch()
    layers = lora_layers(model)
    longer = ProbeBatch(
        torch.nn.functional.pad(batch.input_ids, (0, 5)),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        batch.pixel_values,
        torch.nn.functional.pad(batch.instruction_mask, (0, 5)),
        batch.output_position,
        batch.ids,
    )
    found = inputs_of(model, layers, Answered(model, lambda: [batch], ACTIONS), 1000, 1)
    again = inputs_of(model, layers, Answered(model, lambda: [longer], ACTIONS), 1000, 1)
    few = inputs_of(model, layers, Answered(model, lambda: [batch, probe_batch(1)], ACTIONS), 3, 1)
    for name, of_layer in found.items():
        assert torch.allclose(of_layer.gram, again[name].gram, rtol=1e-5, atol=1e-5)
    # Below the first layer's mixing, one token makes the same row twice.
    assert max(int(torch.linalg.matrix_rank(of_layer.gram)) for of_layer in few.values()) == 2 * 3


def test_what_is_held_of_other_samples_is_told_and_the_basis_is_of_all() -> None:
    """Against the SVD of the rows of all batches but the first and the ninth, in float64."""
    model, batches, share = model_with_lora(), [probe_batch(seed) for seed in range(10)], 0.8
    layers = lora_layers(model)
    parts = [whole_inputs(model, layers, [batch]) for batch in batches]
    guard = InputGuard.measured(model, lambda: batches, ALONE, share, ACTIONS, 1000, 1)
    report = guard.report
    wanted: list[tuple[int, float, float]] = []
    for name, (count, size, energy, row) in report["by_layer"].items():
        own = [part[name] for part in parts]
        basis = directions(np.concatenate([own[n] for n in range(10) if n not in (0, 8)]), share)
        lengths, inside = ((np.concatenate([own[0], own[8]]) @ way) ** 2 for way in (np.eye(HIDDEN), basis))
        held = (inside.sum() / lengths.sum(), (inside.sum(1) / lengths.sum(1)).mean())
        assert (energy, row) == pytest.approx(held, abs=1e-4)
        assert (count, size) == (directions(np.concatenate(own), share).shape[1], HIDDEN)
        wanted.append((count, *held))
    assert [count for count, *_ in wanted] == [count for count, _ in guard.widths()]
    assert report["share"] == share
    assert report["seconds"] > 0
    for column, key in ((1, "held_energy"), (2, "held_of_rows")):
        values = [one[column] for one in wanted]
        assert report[key] == pytest.approx({"min": min(values), "median": float(np.median(values))}, abs=1e-4)
    assert report["directions_of_inputs"]["min"] == min(count for count, *_ in wanted) / HIDDEN
    weak = [name for name, (*_, row) in zip(layers, wanted, strict=True) if row < report["least"]]
    assert report["below_least"] == weak != []
    assert report["never_run"] == []


def test_one_batch_leaves_no_other_samples_to_check_against() -> None:
    report = InputGuard.measured(model_with_lora(), lambda: [probe_batch()], ALONE, 0.9, ACTIONS, 1000, 1).report
    assert report["held_energy"] is report["held_of_rows"] is None
    assert all(row[2:] == [None, None] for row in report["by_layer"].values())


def test_one_long_row_shows_in_the_mean_over_rows() -> None:
    """A massive token takes the energy, and with it the only direction."""
    kept = Inputs(torch.zeros(4, 4, dtype=torch.float64))
    for number in range(2):
        kept.add(torch.cat([100 * torch.eye(4)[:1], torch.eye(4)[1:]]), number)
    assert basis_of(kept.gram, 0.99).shape == (4, 1)
    assert kept.checked(0.99) == pytest.approx((10000 / 10003, 1 / 4))


def test_a_layer_that_the_probe_never_runs_is_named() -> None:
    model = model_with_lora()
    idle = get_peft_model(nn.Sequential(nn.Linear(HIDDEN, HIDDEN)), LoraConfig(r=2, target_modules=["0"]))
    model.add_module("idle", idle)
    name = next(name for name in lora_layers(model) if name.startswith("idle"))
    with pytest.warns(UserWarning, match=rf"holds nothing in 1 of 11 layers.*never runs them: {re.escape(name)};"):
        guard = InputGuard.measured(model, lambda: [probe_batch()], ALONE, 0.9, ACTIONS, 1000, 1)
    assert guard.report["never_run"] == [name]
    assert guard.report["by_layer"][name] == [0, HIDDEN, None, None]


def test_layers_are_taken_in_groups_that_fit_and_come_to_the_same() -> None:
    model, batches, passes = model_with_lora(), [probe_batch(seed) for seed in range(3)], []
    layers = lora_layers(model)
    assert [len(group) for group in groups_of(layers, 4 * GRAM)] == [4, 4, 2]
    assert [len(group) for group in groups_of(layers, GRAM - 1)] == [1] * 10
    assert [name for group in groups_of(layers, 4 * GRAM) for name in group] == list(layers)

    def made() -> Iterator[ProbeBatch]:
        passes.append(len(passes))
        yield from batches

    counted = [0]
    handle = model.register_forward_pre_hook(lambda *_: counted.__setitem__(0, counted[0] + 1))
    in_groups = InputGuard.measured(model, made, ALONE, 0.9, ACTIONS, 1000, 1, room=4 * GRAM)
    handle.remove()
    assert len(passes) == 3
    # Each pass one forward a batch; the two further tokens of an answer are generated in the first.
    assert counted == [3 * len(batches) + (ACTIONS - 1) * len(batches)]
    at_once = InputGuard.measured(model, lambda: batches, ALONE, 0.9, ACTIONS, 1000, 1)
    assert in_groups.widths() == at_once.widths()
    for (factor, basis), (other, wanted) in zip(in_groups._held, at_once._held, strict=True):
        assert factor is other
        assert np.abs(span(basis) - span(wanted)).max() < 1e-6


@pytest.mark.parametrize("room", [10 * GRAM, 4 * GRAM])
def test_memory_does_not_grow_with_the_probe_samples_and_stays_in_the_room(room: int) -> None:
    model = model_with_lora()
    held: list[list[int]] = []
    looked = (0, 7, 8, 24, 29)

    def measured() -> int:
        """Bytes of all tensors of numbers that live, but for the batch at hand."""
        found = [part for part in gc.get_objects() if type(part) is torch.Tensor and part.is_floating_point()]
        return sum(part.numel() * part.element_size() for part in found if part.shape != (3, PATCHES, 4))

    def batches() -> Iterator[ProbeBatch]:
        gc.collect()
        before = measured()
        held.append([])
        for seed in range(30):
            yield probe_batch(seed)
            if seed in looked:
                held[-1].append(measured() - before)

    rows = 5
    InputGuard.measured(model, batches, ALONE, 0.9, ACTIONS, rows, 1, room=room)
    sizes = (10,) if room == 10 * GRAM else (4, 4, 2)
    # The first batch makes the matrices; what the four batches for the check leave is float32 rows, and no others add.
    apart = [4 * rows * HIDDEN * count for count in (1, 1, 2, 4, 4)]
    assert held == [[size * (GRAM + kept) for kept in apart] for size in sizes]


def test_after_any_step_the_branch_is_silent_on_the_probe_and_only_there() -> None:
    # One sample: its ten positions leave six of the sixteen directions free.
    model, batch = model_with_lora(), probe_batch().slice(0, 1)
    guard = InputGuard.measured(model, lambda: [batch], ALONE, 1 - 1e-9, 2, 1000, 1)
    guard.install()
    factors = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=0.1)
    before = model(batch.input_ids, batch.attention_mask, batch.pixel_values).logits.detach()
    other = probe_batch(9)
    before_other = model(other.input_ids, other.attention_mask, other.pixel_values).logits.detach()
    for _ in range(3):
        for factor in factors:
            factor.grad = torch.randn_like(factor)
        optimizer.step()
    shown = torch.cat([torch.ones(1, PATCHES, dtype=torch.bool), batch.attention_mask], 1)
    after = model(batch.input_ids, batch.attention_mask, batch.pixel_values).logits.detach()
    assert (after - before)[shown].abs().max() < 2e-3
    after_other = model(other.input_ids, other.attention_mask, other.pixel_values).logits.detach()
    assert all(k < size == HIDDEN for k, size in guard.widths())
    assert (after_other - before_other).abs().max() > 1e-2
    guard.remove()
    for factor in factors:
        factor.grad = torch.randn_like(factor)
    optimizer.step()
    moved = model(batch.input_ids, batch.attention_mask, batch.pixel_values).logits.detach()
    assert (moved - before)[shown].abs().max() > 1e-2


def test_it_is_set_once_and_leaves_other_optimizers_alone() -> None:
    factor, alien = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(3))
    basis = torch.eye(4)[:, :1]
    guard = InputGuard([(factor, basis)])
    guard.install()
    assert factor.tolist() == [[0.0, 1.0, 1.0, 1.0]] * 2
    with pytest.raises(RuntimeError, match="set already"):
        guard.install()
    with torch.no_grad():
        factor.fill_(1.0)
    alien.grad = torch.ones(3)
    torch.optim.SGD([alien], lr=1.0).step()
    assert factor.tolist() == [[1.0] * 4] * 2
    factor.grad = torch.ones(2, 4)
    torch.optim.SGD([factor], lr=1.0).step()
    assert factor.tolist() == [[0.0] * 4] * 2
    guard.remove()


def test_a_model_without_lora_is_refused() -> None:
    with pytest.raises(ValueError, match="use_lora"):
        lora_layers(nn.Linear(HIDDEN, HIDDEN))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="input_guard"):
        SurgeryConfig(input_guard=share).validate()


def test_the_guard_alone_is_something_to_do() -> None:
    alone = SurgeryConfig(enabled=True, hsw=False, thermostat=ThermostatConfig(enabled=False), input_guard=0.9)
    alone.validate()
    assert alone.tag() != dataclasses.replace(alone, input_guard=0.8).tag()


class Seeing(Answering):
    """With pictures that a convolution cuts into patches, as openvla's vision backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 4, kernel_size=2, stride=2)

    def forward(
        self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, use_cache: bool = False
    ) -> SimpleNamespace:
        patches = self.cut(pixel_values).flatten(2).transpose(1, 2)
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask, patches)["logits"])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_convolution_is_held_by_what_lies_under_its_kernel(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(4)
    lora = LoraConfig(r=2, target_modules=["cut", "mix"], init_lora_weights="gaussian")
    model = get_peft_model(Seeing(), lora)
    batch = dataclasses.replace(probe_batch().slice(0, 1), pixel_values=torch.randn(1, 3, 2, 2 * PATCHES))
    guard = InputGuard.measured(model, lambda: [batch], ALONE, 1 - 1e-9, 2, 1000, 1)
    factor = model.base_model.model.cut.lora_A["default"].weight
    factor.data = factor.data.to(dtype)
    guard.install()
    places = torch.stack([batch.pixel_values[0, :, :, 2 * i : 2 * i + 2].flatten() for i in range(PATCHES)])
    silent = places.double() @ factor.double().flatten(1).T
    assert silent.abs().max() < bound * places.norm() * factor.double().norm()
    assert (torch.randn(8, 12).double() @ factor.double().flatten(1).T).abs().max() > 0.05
    guard.remove()


def test_what_is_neither_linear_nor_a_convolution_is_refused_by_name() -> None:
    table = get_peft_model(nn.Sequential(nn.Conv1d(3, 4, 2)), LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(ValueError, match="Conv1d"):
        lora_layers(table)
