"""The input guard: which directions it holds, that LoRA is silent on them after any step, and what it refuses."""

from __future__ import annotations

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
    assert alone.tag() != SurgeryConfig(enabled=True, hsw=False).tag()
