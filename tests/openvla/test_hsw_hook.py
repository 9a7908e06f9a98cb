"""The gradient hook: against loops in float64, the identity, the norm, and who feels it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from research.hooks.hsw_hook import Damping, HSWHooks, damp, squared_norms
from research.ranks import Ranks
from research.recorder import NormRecorder
from surgery_models import HIDDEN, LAYERS, TinyVLA, bases, batch, damped_model, reference
from torch.utils._python_dispatch import TorchDispatchMode

ALONE = Ranks(None, torch.device("cpu"))


def joined(pair: Any, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, int]:
    return torch.cat(pair, dim=1).to(dtype), pair[0].shape[1]


def hooked(
    model: torch.nn.Module, basis: dict[int, Any], beta: float, gamma: float, active: bool = False
) -> tuple[HSWHooks, NormRecorder]:
    recorder = NormRecorder(basis)
    recorder.active = active
    layers = model.language_model.model.layers
    hooks = HSWHooks({n: layers[n] for n in basis}, basis, Damping(beta, gamma), recorder)
    hooks.install()
    return hooks, recorder


def gradients(model: torch.nn.Module, *batches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for one in batches:
        (model(**one)["loss"] / len(batches)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("fragile", "plastic"), [(3, 4), (0, 5), (5, 0), (8, 8)])
@pytest.mark.parametrize(("beta", "gamma"), [(0.5, 0.1), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2**-7)]
)
def test_damp_is_what_loops_in_float64_say(
    fragile: int, plastic: int, beta: float, gamma: float, dtype: torch.dtype, tolerance: float
) -> None:
    pair = bases([0], fragile, plastic)[0]
    g = torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = damp(g, *joined(pair, wide), beta, gamma)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), reference(g, *pair, beta, gamma), rtol=tolerance, atol=tolerance)


def test_at_one_and_one_the_very_tensor_comes_back() -> None:
    g = torch.randn(2, 3, HIDDEN)
    assert damp(g, *joined(bases([0])[0]), 1.0, 1.0) is g


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_token_grows(dtype: torch.dtype, data: st.DataObject) -> None:
    """Stored norms, compared in float64: far from the subspace, inside it, tiny, and close to the dtype's largest."""
    seed = data.draw(st.integers(0, 10**6))
    top = {torch.float16: 15.9, torch.float64: 300.0}.get(dtype, 127.9)
    bottom = {torch.float16: -14.0}.get(dtype, -120.0)
    exponents = data.draw(st.lists(st.floats(bottom, top), min_size=4, max_size=4))
    beta, gamma = data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1)))
    uf, up = bases([0], data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6)), seed)[0]
    g = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.cat([uf, up], 1).double()
    # Rounding alone decides where there is nothing to damp.
    g[1] -= basis @ (basis.T @ g[1])
    g[2] = g[2].sign()
    g = g / g.abs().amax(dim=1, keepdim=True) * torch.tensor(exponents, dtype=torch.float64).exp2()[:, None]
    g = g.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = damp(g, *joined((uf, up), wide), beta, gamma)
    assert found.isfinite().all()
    scale = g.double().abs().amax(dim=1, keepdim=True)
    before, after = (torch.linalg.vector_norm(v.double() / scale, dim=1) for v in (g, found))
    assert (after <= before).all(), (before, after)


def test_what_has_no_component_to_damp_stays_as_good_as_it_was() -> None:
    """The guard against growing must not shorten bfloat16 gradients that rounding leaves alone."""
    pair = bases([0])[0]
    basis = torch.cat(pair, 1).double()
    g = torch.randn(200, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    g = (g - g @ basis @ basis.T).bfloat16()
    found = damp(g, *joined(pair), 0.2, 0.0)
    before, after = (torch.linalg.vector_norm(v.double(), dim=1) for v in (g, found))
    assert (after <= before).all()
    assert (after / before).mean() > 0.997


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_gradient_with_nothing_in_the_subspace_is_left_bit_for_bit(dtype: torch.dtype) -> None:
    g = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(2)).to(dtype)
    g[:, :7] = 0
    basis = torch.eye(HIDDEN, dtype=torch.float64 if dtype == torch.float64 else torch.float32)[:, :7]
    assert torch.equal(damp(g, basis, 3, 0.5, 0.1), g)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_entry_that_would_leave_the_range_stays_finite(dtype: torch.dtype) -> None:
    """Damping one direction can make a single entry larger than any that was there."""
    top = torch.finfo(dtype).max
    direction = torch.full((HIDDEN, 1), 1.0, dtype=torch.float64)
    direction[0] = -2.0
    direction /= direction.norm()
    g = torch.full((1, HIDDEN), top, dtype=dtype)
    exact = g.double() / top - (g.double() / top) @ direction @ direction.T
    assert exact[0, 0] > 1.5
    found = damp(g, direction.float(), 1, 1.0, 0.0)
    torch.testing.assert_close(found.double() / top, exact.clamp(-1, 1), rtol=1e-2, atol=1e-2)
    assert (found.double() / top).norm() <= (g.double() / top).norm()


def test_what_is_not_finite_stays_visible() -> None:
    g = torch.ones(3, HIDDEN)
    g[1, 2], g[2, 3] = float("inf"), float("nan")
    found = damp(g, *joined(bases([0])[0]), 0.5, 0.1)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().all()
    assert not found[2].isfinite().all()


def test_below_the_hook_as_an_autograd_function_says_and_above_nothing() -> None:
    basis = bases([1, 3])
    model, plain = TinyVLA().double(), TinyVLA().double()
    hooked(model, basis, 0.5, 0.1)
    found, before = gradients(model, batch(2, 1)), gradients(plain, batch(2, 1))
    expected = gradients(damped_model(0, basis, 0.5, 0.1).double(), batch(2, 1))
    above = ("lm_head", "model.norm", "layers.4.")
    assert set(found) == set(expected) == set(before)
    for name in found:
        if any(part in name for part in above):
            assert torch.equal(found[name], before[name]), name
        else:
            assert not torch.allclose(found[name], before[name], rtol=1e-3), name
            # float32 bases are orthonormal to 1e-7.
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_bit_for_bit(active: bool, dtype: torch.dtype) -> None:
    model, plain = TinyVLA().to(dtype), TinyVLA().to(dtype)
    hooked(model, bases(range(LAYERS)), 1.0, 1.0, active)
    found, expected = gradients(model, batch(2, 1, dtype)), gradients(plain, batch(2, 1, dtype))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_hooks_come_off_and_are_not_set_twice() -> None:
    model, plain = TinyVLA(), TinyVLA()
    hooks, _ = hooked(model, bases([2]), 0.5, 0.1)
    with pytest.raises(RuntimeError, match="set already"):
        hooks.install()
    hooks.remove()
    found, expected = (gradients(m, batch(2, 1, torch.float32)) for m in (model, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_accumulated_micro_batches_add_up() -> None:
    basis = bases([1, 3])
    model = TinyVLA().double()
    _, recorder = hooked(model, basis, 0.5, 0.1, active=True)
    found = gradients(model, batch(2, 1), batch(2, 2))
    expected = gradients(damped_model(0, basis, 0.5, 0.1).double(), batch(2, 1), batch(2, 2))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9)
    both = recorder.flush(ALONE)
    parts = []
    for seed in (1, 2):
        one = TinyVLA().double()
        _, alone = hooked(one, basis, 0.5, 0.1, active=True)
        (one(**batch(2, seed))["loss"] / 2).backward()
        parts.append(alone.flush(ALONE))
    for layer, name in ((1, "g"), (3, "gf"), (3, "g_after")):
        assert both[layer][name] == pytest.approx(sum(p[layer][name] ** 2 for p in parts) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_recorded_norms_against_the_definition(scale: float) -> None:
    pair = bases([0])[0]
    g = (torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(3)) * scale).bfloat16()
    basis, fragile = joined(pair)
    result = damp(g, basis, fragile, 0.5, 0.1)
    found = squared_norms(g, result, basis, fragile).sqrt()
    wide, (uf, up) = g.double(), (u.double() for u in pair)
    gf, gp = wide @ uf @ uf.T, wide @ up @ up.T
    expected = torch.stack([v.norm() for v in (wide, gf, gp, wide - gf - gp, result.double())])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


class Fired(HSWHooks):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fired: list[int] = []

    def _on_gradient(self, number: int, gradient: torch.Tensor) -> torch.Tensor | None:
        self.fired.append(number)
        return super()._on_gradient(number, gradient)


def llama(checkpointing: bool) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).double().train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_once_a_backward_under_hugging_face_checkpointing(micro_batches: int) -> None:
    ids = torch.randint(31, (2, 7), generator=torch.Generator().manual_seed(4))
    basis = bases([0, 2])
    found = []
    for checkpointing in (False, True):
        model = llama(checkpointing)
        hooks = Fired({n: model.model.layers[n] for n in basis}, basis, Damping(0.5, 0.1), NormRecorder(basis))
        hooks.install()
        for _ in range(micro_batches):
            (model(input_ids=ids, labels=ids).loss / micro_batches).backward()
        assert hooks.fired == [2, 0] * micro_batches
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-12, atol=1e-14)


def test_a_backward_under_autocast_still_multiplies_in_float32() -> None:
    pair = bases([0])[0]
    g = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(6))
    hooks = HSWHooks({}, {0: pair}, Damping(0.5, 0.1), recorder := NormRecorder([0]))
    recorder.active = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hooks._on_gradient(0, g)
    torch.testing.assert_close(found.double(), reference(g, *pair, 0.5, 0.1), rtol=1e-5, atol=1e-6)


class NoWaiting(TorchDispatchMode):
    """Raises on every operation after which the host has to wait for the device."""

    WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2"})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in self.WAITS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def waiting(model: torch.nn.Module) -> None:
    with NoWaiting():
        model(**batch(2, 1, torch.bfloat16))["loss"].backward()


@pytest.mark.parametrize("active", [False, True])
def test_no_step_waits_for_the_device_in_the_hook(active: bool) -> None:
    model = TinyVLA().bfloat16()
    hooked(model, bases([1, 3]), 0.5, 0.1, active)
    waiting(model)


def test_the_guard_against_waiting_sees_a_wait() -> None:
    model = TinyVLA().bfloat16()
    model.language_model.model.layers[1].register_forward_hook(lambda m, a, o: float(o[0].detach().sum()))
    with pytest.raises(AssertionError, match="waits"):
        waiting(model)
