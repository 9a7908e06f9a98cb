"""From a teacher to subspaces: bases, ranking, split, ablations, choice of layers."""

import math

import pytest
import torch
from icms_models import HIDDEN, LAYERS, linear_model, probe_batch, sharp_llama
from research.anatomy import anatomy
from research.icms import icsm
from research.icms.basis import pooled, principal, random_basis
from research.icms.icsm import Settings
from research.icms.layers import LayerError


class Batches:
    """Twelve samples in batches of five, anew each time."""

    def __init__(self, size=5, count=12):
        self.whole, self.size = probe_batch(count), size

    def __iter__(self):
        return (self.whole.slice(i, i + self.size) for i in range(0, len(self.whole.ids), self.size))


def test_pooled_states_and_rms_against_a_loop():
    model, batches = linear_model(), Batches()
    ids, found = pooled(model, batches, [1])
    assert ids == tuple(f"s{i}" for i in range(12))
    batch, kept = batches.whole, {}
    hook = anatomy(model).layers[1].register_forward_hook(lambda module, args, out: kept.update(state=out))
    with torch.no_grad():
        model(batch.input_ids, batch.attention_mask, batch.pixel_values.double())
    hook.remove()
    total, count = 0.0, 0
    for i in range(12):
        rows = [kept["state"][i, t] for t in range(kept["state"].shape[1]) if batch.instruction_mask[i, t]]
        torch.testing.assert_close(found[1].states[i].double(), sum(rows) / len(rows), rtol=1e-6, atol=1e-6)
        total += sum(float((row**2).sum()) for row in rows)
        count += len(rows) * HIDDEN
    assert found[1].rms == pytest.approx(math.sqrt(total / count))
    assert found[1].states.dtype == torch.float32


def test_principal_directions_are_the_covariances_eigenvectors():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(30, 10, generator=generator) * torch.linspace(3, 0.5, 10) + 5
    found = principal(states, 4)
    wide = states.double()
    covariance = (wide - wide.mean(0)).T @ (wide - wide.mean(0)) / 29
    torch.testing.assert_close(covariance @ found.basis, found.basis * found.singular_values**2 / 29)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(4, dtype=torch.float64))
    assert (found.singular_values[:-1] >= found.singular_values[1:]).all()
    torch.testing.assert_close(found.mean, wide.mean(0))


def test_no_more_directions_than_the_samples_span():
    generator = torch.Generator().manual_seed(0)
    assert principal(torch.randn(5, 10, generator=generator), 128).basis.shape == (10, 4)
    twice = torch.randn(4, 10, generator=generator).repeat(6, 1) + 100
    assert principal(twice, 128).basis.shape == (10, 3)
    with pytest.raises(ValueError, match=r"24 probe samples span 0 directions.*more different instructions"):
        principal(torch.ones(24, 10), 8)


@pytest.mark.parametrize(
    ("k", "fragile", "null", "expected"),
    [
        (128, 0.25, 0.25, (32, 64)),
        (8, 0.25, 0.5, (2, 2)),
        (2, 0.25, 0.25, (1, 1)),
        (3, 0.9, 0.05, (2, 1)),
        (10, 0.5, 0.0, (5, 5)),
    ],
)
def test_sizes(k, fragile, null, expected):
    assert icsm.sizes(k, fragile, null) == expected


def test_ranked_by_vulnerability_and_split():
    model = sharp_llama()
    found = icsm.make(model, Batches(), Settings(layers=[0, 2], groups="2:2-3", r=8, draws=16))
    assert found.layers[2].members == (2, 3)
    for n, layer in found.layers.items():
        record = found.meta["layers"][str(n)]
        values = torch.tensor(record["vulnerabilities"])
        assert record["order"] == values.argsort(descending=True).tolist() != list(range(8))
        base = principal(layer.pooled, 8)
        torch.testing.assert_close(
            torch.cat([layer.Uf, layer.Up], 1), base.basis[:, record["order"][:6]].float(), rtol=0, atol=1e-6
        )
        assert (layer.Uf.shape, layer.Up.shape) == ((HIDDEN, 2), (HIDDEN, 4))
        assert layer.mu.dtype == layer.Uf.dtype == layer.pooled.dtype == torch.float32
        assert layer.ids == tuple(f"s{i}" for i in range(12))
        assert record["singular_values"] == sorted(record["singular_values"], reverse=True)
    assert "for 2,3" in icsm.summary(found)


def test_finite_difference_gives_the_same_ranking_here():
    model, batches = sharp_llama(), Batches()
    common = {"layers": [1], "r": 6, "epsilon": 0.01}
    fast = icsm.make(model, batches, Settings(**common, draws=256))
    slow = icsm.make(model, batches, Settings(**common, method="finite_difference"))
    a, b = (torch.tensor(found.meta["layers"]["1"]["vulnerabilities"]) for found in (fast, slow))
    torch.testing.assert_close(a, b, rtol=0.15, atol=0)


def test_ablations():
    model, batches = sharp_llama(), Batches()
    plain = icsm.make(model, batches, Settings(layers=[1], r=8, rank_by="singular_value"))
    base = principal(plain.layers[1].pooled, 8)
    assert torch.equal(plain.layers[1].Uf, base.basis[:, :2].float())
    assert torch.equal(plain.layers[1].Up, base.basis[:, 2:6].float())
    assert plain.meta["layers"]["1"]["vulnerabilities"] is not None
    random = icsm.make(model, batches, Settings(layers=[1], r=8, rank_by="random", seed=3))
    again = icsm.make(model, batches, Settings(layers=[1], r=8, rank_by="random", seed=3))
    other = icsm.make(model, batches, Settings(layers=[1], r=8, rank_by="random", seed=4))
    assert random.layers[1].Uf.shape == plain.layers[1].Uf.shape
    assert random.layers[1].Up.shape == plain.layers[1].Up.shape
    assert torch.equal(random.layers[1].Uf, again.layers[1].Uf)
    assert not torch.equal(random.layers[1].Uf, other.layers[1].Uf)
    assert random.meta["layers"]["1"]["vulnerabilities"] is None
    assert torch.equal(random.layers[1].pooled, plain.layers[1].pooled), "the thermostat measures the same"


def test_a_random_basis_is_orthonormal_and_its_layers_differ():
    one, two = random_basis(20, 5, 7, 1), random_basis(20, 5, 7, 2)
    torch.testing.assert_close(one.T @ one, torch.eye(5, dtype=torch.float64))
    assert not torch.equal(one, two)


def test_chosen_layers_are_the_most_vulnerable():
    model, batches = sharp_llama(), Batches()
    every = icsm.make(model, batches, Settings(layers=list(range(LAYERS - 1)), r=8))
    totals = {n: sum(every.meta["layers"][str(n)]["vulnerabilities"]) for n in range(LAYERS - 1)}
    chosen = icsm.make(model, batches, Settings(layers=2, r=8))
    assert sorted(chosen.layers) == sorted(sorted(totals, key=totals.get)[-2:])
    for n, layer in chosen.layers.items():
        assert torch.equal(layer.Uf, every.layers[n].Uf)
        assert layer.members == (n,)
    with pytest.raises(LayerError, match=f"auto:{LAYERS}: only {LAYERS - 1} of the model's {LAYERS} layers"):
        icsm.make(model, batches, Settings(layers=LAYERS))


def test_a_layer_that_reaches_nothing_is_refused():
    model = sharp_llama()
    with torch.no_grad():
        for block in anatomy(model).layers:
            block.self_attn.o_proj.weight.zero_()
    with pytest.raises(ValueError, match="layer 1: no direction changes the output"):
        icsm.make(model, Batches(), Settings(layers=[1], r=4))


def test_the_teacher_is_not_changed():
    model = sharp_llama(dtype=torch.bfloat16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    icsm.make(model, Batches(), Settings(layers=[1], r=4, output_tokens=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_batch_size_does_not_matter():
    model = sharp_llama()
    one, two = (icsm.make(model, Batches(size), Settings(layers=[1], r=6)) for size in (1, 12))
    assert one.meta["layers"]["1"]["order"] == two.meta["layers"]["1"]["order"]
    torch.testing.assert_close(one.layers[1].Uf, two.layers[1].Uf, rtol=0, atol=1e-4)
