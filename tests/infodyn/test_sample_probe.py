"""Probes on samples that are kept: against the model's own outputs; training goes on as if nothing had been."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from infodyn.module_paths import ProbeError
from infodyn.probe_file import probe_path, read_probe_file
from infodyn.probe_options import as_mapping, split_options
from infodyn.sample_probe import SampleProbe
from infodyn.subset import choose_samples
from torch import Tensor, nn

SAMPLES, SIZE, TOKENS, DIM, TIMES = 20, 6, 5, 4, 3
SPEC = {"name": "p", "source_modules": ["blocks.*"], "target_modules": ["decoder"]}


class Denoiser(nn.Module):
    """Like an action head: each action is denoised at several times at once, from noise that the forward draws."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(DIM, DIM), nn.Dropout(0.5)) for _ in range(2))
        self.frozen = nn.Linear(DIM, DIM).eval()
        self.decoder = nn.Linear(DIM, 2)
        self.noise: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(TIMES, TOKENS, DIM, dtype=x.dtype)
        self.noise.append(noise)
        x = x.repeat(TIMES, 1, 1) + noise
        for block in self.blocks:
            x = block(x)
        return self.decoder(self.frozen(x))


@pytest.fixture
def model() -> Denoiser:
    torch.manual_seed(3)
    model = Denoiser().double().train()
    model.frozen.eval()
    return model


@pytest.fixture
def data() -> Tensor:
    return torch.randn(SAMPLES, 1, TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make(run: Path, model: nn.Module, data: Tensor, **options: Any) -> SampleProbe:
    def pick(number: int, seed: int) -> Sequence[Tensor]:
        return [data[index] for index in choose_samples(len(data), number, seed)]

    options = {"probes": [SPEC], "validation_subset_size": SIZE, "tokens_per_sample": 4, "seed": 5, **options}
    return SampleProbe(options, run, "toy", model, pick, lambda model, sample: model(sample))


def test_every_row_is_the_samples_own(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    make(tmp_path, model, data).evaluate(model, 0)
    read = read_probe_file(probe_path(tmp_path, "p", 0))
    rows = read["metadata"]["rows"]
    chosen = choose_samples(SAMPLES, SIZE, 5)
    assert rows["sample"].tolist() == [number for number in range(SIZE) for _ in range(4)]
    assert int(rows["token"].max()) >= TOKENS, "all denoising times are drawn from"
    for row, (number, token) in enumerate(zip(rows["sample"].tolist(), rows["token"].tolist(), strict=True)):
        hidden = (data[chosen[number]] + model.noise[number])[token // TOKENS, token % TOKENS]
        for name, block in enumerate(model.blocks):
            weight, bias = block[0].weight, block[0].bias
            hidden = torch.stack([w @ hidden + b for w, b in zip(weight, bias, strict=True)])
            assert torch.allclose(read["source_activations"][f"blocks.{name}"][row], hidden, rtol=0, atol=1e-12)
    assert read["target_activations"]["decoder"].shape == (SIZE * 4, 2)
    assert set(read["labels"].tolist()) == {-100}


def test_the_same_samples_and_noise_at_every_epoch(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    probe = make(tmp_path, model, data)
    probe.evaluate(model, 0)
    torch.rand(7)
    probe.evaluate(model, 1)
    first, second = (read_probe_file(probe_path(tmp_path, "p", epoch)) for epoch in (0, 1))
    for name, values in first["source_activations"].items():
        assert torch.equal(values, second["source_activations"][name])
    assert len({noise.sum().item() for noise in model.noise[:SIZE]}) == SIZE, "each sample has its own"


def test_training_goes_on_as_if_nothing_had_been(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()]

    flags, before = [each.training for each in model.modules()], states()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    make(tmp_path, model, data).evaluate(model, 0)
    assert states() == before
    assert [each.training for each in model.modules()] == flags
    assert not model.frozen.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(each._forward_hooks for each in model.modules())


def test_an_epoch_that_is_not_due_runs_nothing(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    probe = make(tmp_path, model, data, save_every_n_epochs=2)
    probe.evaluate(model, 1)
    assert model.noise == []
    assert not (tmp_path / "probes").exists()


def test_no_sample_is_refused(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    with pytest.raises(ProbeError, match="toy has no sample to probe"):
        make(tmp_path, model, data[:0])


def test_options_as_mapping_json_and_files(tmp_path: Path) -> None:
    wanted = {"probes": [SPEC], "seed": 2}
    (tmp_path / "a.json").write_text(json.dumps(wanted))
    (tmp_path / "a.yaml").write_text(
        "seed: 2\nprobes:\n- {name: p, source_modules: ['blocks.*'], target_modules: [decoder]}\n"
    )
    for form in (wanted, json.dumps(wanted), str(wanted), str(tmp_path / "a.json"), str(tmp_path / "a.yaml")):
        assert split_options(as_mapping("probes", form)) == ([SPEC], {"seed": 2})
    assert as_mapping("probes", None) == {}


def test_a_file_that_cannot_be_read_is_named_with_its_switch(tmp_path: Path) -> None:
    for content in (b'{"probes": [', b"probes: [\n", b"\xff"):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=r"`trainer.probes`: .*bad\.yaml holds neither YAML nor JSON"):
            as_mapping("trainer.probes", str(tmp_path / "bad.yaml"))


def test_a_seed_that_is_no_number_is_refused(tmp_path: Path, model: Denoiser, data: Tensor) -> None:
    with pytest.raises(ProbeError, match="seed is '5'; it must be a whole number"):
        make(tmp_path, model, data, seed="5")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("nowhere.yaml", "`probes` is neither a mapping, nor JSON, nor a file that exists: 'nowhere.yaml'"),
        ('{"probes": [', "`probes` begins like a mapping, but is no JSON"),
        ([SPEC], "must be a mapping of options, got list"),
        ({"seed": 1}, "needs a list `probes`"),
        ({"probes": "p"}, "needs a list `probes`"),
        ({"probes": [SPEC], 3: 3}, "has no option 3"),
        ({"probes": [SPEC], "size": 3}, "has no option size; it has save_every_n_epochs, seed, tokens_per_sample"),
    ],
)
def test_refused_options(given: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        split_options(as_mapping("probes", given))
