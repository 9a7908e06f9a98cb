"""The input guard: which directions it holds, that LoRA is silent on them after any step, and what it refuses."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from research.config import SurgeryConfig, ThermostatConfig
from research.hooks.input_guard import InputGuard, basis_of, inputs_of, lora_layers
from research.probe.batch import ProbeBatch
from research.ranks import Ranks
from surgery_models import HIDDEN, PATCHES, VOCABULARY, TinyVLA
from torch import nn


class Answering(nn.Module):
    """TinyVLA with an output that has ``.logits``, as openvla's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyVLA()
        self.vision_backbone, self.language_model = self.inner.vision_backbone, self.inner.language_model

    def forward(
        self, input_ids: Any, attention_mask: Any = None, pixel_values: Any = None, use_cache: bool = False
    ) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask, pixel_values)["logits"])


def model_with_lora() -> nn.Module:
    torch.manual_seed(3)
    return get_peft_model(Answering(), LoraConfig(r=4, target_modules=["mix", "down"], init_lora_weights="gaussian"))


def probe_batch(seed: int = 0) -> ProbeBatch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([4, 6, 5])
    mask = torch.arange(6) < lengths.unsqueeze(1)
    ids = torch.randint(1, VOCABULARY, (3, 6), generator=draw) * mask
    pixels = torch.randn(3, PATCHES, 4, generator=draw)
    instruction = torch.zeros(3, PATCHES + 6, dtype=torch.bool)
    instruction[:, PATCHES + 1 : PATCHES + 3] = True
    return ProbeBatch(ids, mask, pixels, instruction, PATCHES + lengths - 1, ["a", "b", "c"])


def test_the_basis_is_the_fewest_directions_that_hold_the_share() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((50, 8)) * np.array([9, 5, 3, 1, 0.5, 0.3, 0.1, 0.1])
    values, vectors = np.linalg.eigh(inputs.T @ inputs)
    energy = np.cumsum(values[::-1]) / values.sum()
    for share in (0.5, 0.9, 0.99, 0.9999):
        wanted = int(np.argmax(energy >= share)) + 1
        basis = basis_of(torch.tensor(inputs), share).numpy()
        assert basis.shape == (8, wanted)
        top = vectors[:, ::-1][:, :wanted]
        assert np.abs(basis @ basis.T - top @ top.T).max() < 1e-9


def test_inputs_are_those_of_real_tokens_with_the_models_own_answer_behind_them() -> None:
    model, batch = model_with_lora(), probe_batch()
    layers = lora_layers(model)
    assert len(layers) == 10
    state = torch.get_rng_state()
    found = inputs_of(model, layers, [batch], actions=3, rows=1000, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    # Patches, prompt and two of three action tokens (the third has no successor), without padding.
    assert {len(states) for states in found.values()} == {3 * PATCHES + (4 + 6 + 5) + 3 * 2}
    longer = ProbeBatch(
        torch.nn.functional.pad(batch.input_ids, (0, 5)),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        batch.pixel_values,
        torch.nn.functional.pad(batch.instruction_mask, (0, 5)),
        batch.output_position,
        batch.ids,
    )
    again = inputs_of(model, layers, [longer], actions=3, rows=1000, seed=1)
    for name, states in found.items():
        here, there = states.double(), again[name].double()
        assert torch.allclose(here.T @ here, there.T @ there, rtol=1e-5, atol=1e-5)
    assert {len(states) for states in inputs_of(model, layers, [batch], 3, 7, 1).values()} == {7}


def test_after_any_step_the_branch_is_silent_on_the_probe_and_only_there() -> None:
    # One sample: its ten positions leave six of the sixteen directions free.
    model, batch = model_with_lora(), probe_batch().slice(0, 1)
    guard = InputGuard.measured(model, [batch], Ranks(None, torch.device("cpu")), 1 - 1e-9, 2, 1000, 1)
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


def test_the_tokens_behind_a_prompt_are_the_models_own() -> None:
    model, batch = model_with_lora(), probe_batch().slice(0, 1)
    layers = lora_layers(model)
    name = next(iter(layers))
    ids = batch.input_ids[:, :4]
    for _ in range(2):
        logits = model(ids, torch.ones_like(ids), batch.pixel_values).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    seen: list[torch.Tensor] = []
    handle = layers[name].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()[0]))
    model(ids, torch.ones_like(ids), batch.pixel_values)
    handle.remove()
    found = inputs_of(model, layers, [batch], actions=3, rows=1000, seed=1)[name].double()
    wanted = seen[0].double()
    assert found.shape == wanted.shape
    assert torch.allclose(found.T @ found, wanted.T @ wanted, rtol=1e-5, atol=1e-6)


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
    guard = InputGuard.measured(model, [batch], Ranks(None, torch.device("cpu")), 1 - 1e-9, 2, 1000, 1)
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
