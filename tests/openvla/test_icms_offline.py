"""The command on a checkpoint of the stand-in: what it writes, repeats, and refuses before any work."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from research.icms import offline_icms as command
from research.icms import teacher
from research.icms.subspace import Subspaces
from research.probe.hidden_and_mask import prompt_builder_for
from research.probe.probe_dataset import ProbeConfig, build
from toy_world.pretrain import make_model, make_processor, save

INSTRUCTIONS = ["push the red block", "lift the green ball slowly", "turn the blue mug", "open the drawer", "avoid it"]
SAMPLES, LAYERS, SIZE = 20, 4, 32


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, untrained but with an output that is not uniform, and a probe set."""
    folder = tmp_path_factory.mktemp("offline")
    model = make_model(0, num_hidden_layers=LAYERS, hidden_size=SIZE, intermediate_size=64)
    with torch.no_grad():
        model.language_model.lm_head.weight.normal_(std=0.5)
    save(model, make_processor(), folder / "model")
    random = np.random.default_rng(0)
    lines = []
    for i in range(SAMPLES):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f'{{"image": "{i}.png", "instruction": "{INSTRUCTIONS[i % len(INSTRUCTIONS)]}", "id": "p{i}"}}')
    (folder / "probe.jsonl").write_text("\n".join(lines))
    build(ProbeConfig(out=folder / "probe", jsonl=folder / "probe.jsonl", images=folder, n=SAMPLES))
    return folder


def run(place, out, *options):
    paths = ["--vla_path", str(place / "model"), "--probe", str(place / "probe"), "--out", str(out)]
    return command.main([*paths, *options])


def test_the_command_writes_an_artifact_that_loads_and_fits(place, tmp_path):
    assert run(place, tmp_path / "icms", "--layers", "1,2", "--groups", "1:0-1;2:2-3", "--r", "6") == 0
    found = Subspaces.load(tmp_path / "icms")
    assert {n: layer.members for n, layer in found.layers.items()} == {1: (0, 1), 2: (2, 3)}
    probe = command.ProbeSet.load(place / "probe")
    template = command.template_of(prompt_builder_for(str(place / "model"))).text
    found.check(hidden_size=SIZE, num_layers=LAYERS, template=template, probe_hash=probe.hash)
    assert "{instruction}" in template
    assert found.layers[1].ids == tuple(sample.id for sample in probe.sub_batch(range(SAMPLES)))
    meta = found.meta
    assert meta["model"]["path"] == str(place / "model")
    assert meta["model"]["dtype"] == "bfloat16"
    assert meta["settings"] | {"layers": [1, 2], "r": 6, "epsilon": 0.05, "seed": 7} == meta["settings"]
    assert meta["versions"]["torch"] == torch.__version__
    assert len(meta["upstream_commit"]) in (7, 40)
    for n in ("1", "2"):
        layer = meta["layers"][n]
        assert len(layer["vulnerabilities"]) == len(layer["singular_values"]) == len(layer["order"]) == layer["r"]


def test_the_same_command_gives_the_same_subspaces(place, tmp_path):
    for name, options in {"one": [], "two": ["--groups", "", "--device", "cpu"]}.items():
        assert run(place, tmp_path / name, "--layers", "1", "--r", "6", *options) == 0
    one, two = (Subspaces.load(tmp_path / name).layers[1] for name in ("one", "two"))
    assert torch.equal(one.Uf, two.Uf)
    assert torch.equal(one.pooled, two.pooled)


def test_the_reference_method_and_the_whole_action(place, tmp_path):
    common = ("--r", "5", "--dtype", "float32", "--epsilon", "0.01", "--output_tokens", "2", "--layers", "1")
    assert run(place, tmp_path / "slow", *common, "--method", "finite_difference") == 0
    assert run(place, tmp_path / "fast", *common, "--draws", "48") == 0
    slow, fast = (
        torch.tensor(Subspaces.load(tmp_path / name).meta["layers"]["1"]["vulnerabilities"])
        for name in ("slow", "fast")
    )
    torch.testing.assert_close(fast, slow, rtol=0.25, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "guess"), "--method 'guess': choose one of fisher, finite_difference"),
        (("--rank_by", "luck"), "--rank_by 'luck': choose one of vulnerability"),
        (("--compute_dtype", "bfloat16"), "--compute_dtype 'bfloat16': choose one of float32, float64"),
        (("--r", "0"), "--r 0: must be at least 1"),
        (("--epsilon", "0"), "--epsilon 0"),
        (("--fragile", "0.6", "--null", "0.4"), "--fragile 0.6 --null 0.4: shares with something left"),
        (("--layers", "one"), "--layers 'one': write numbers"),
        (("--layers", "1", "--groups", "2:2-3"), "layer 2 has no subspace; add it to --layers"),
        (("--layers", "auto:2", "--groups", "1:0-1"), "name the layers in --layers"),
        (("--layers", "1,2", "--groups", "1:1"), "leave that group out"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_loaded(
    place, tmp_path, monkeypatch, capsys, options, said
):
    def loaded(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(command, "load_teacher", loaded)
    monkeypatch.setattr(command.ProbeSet, "load", loaded)
    assert run(place, tmp_path / "icms", *options) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_something_else_is_refused_before_anything_is_loaded(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "load_teacher", None)
    (tmp_path / "notes").write_text("mine")
    assert run(place, tmp_path, "--layers", "1") == 2
    assert "is no subspace artifact; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(("layers", "said"), [("4", "the model has 4 layers, 0 to 3"), ("3", "layer 3 is the last")])
def test_layers_that_the_checkpoint_does_not_have(place, tmp_path, capsys, layers, said):
    assert run(place, tmp_path / "icms", "--layers", layers) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_inputs_are_named(place, tmp_path, capsys):
    options = ["--probe", str(place / "probe"), "--out", str(tmp_path / "icms"), "--layers", "1"]
    assert command.main(["--vla_path", str(tmp_path / "no-model"), *options]) == 2
    assert "no-model" in capsys.readouterr().err
    options[1] = str(tmp_path / "no-probe")
    assert command.main(["--vla_path", str(place / "model"), *options]) == 2
    assert "no-probe" in capsys.readouterr().err


@pytest.fixture
def loaders(monkeypatch):
    """Upstream's loaders of native checkpoints, which say what they were asked for."""
    asked = []

    def loader(name):
        def loaded(path):
            asked.append((name, path))
            raise AssertionError("Missing `dataset_statistics.json`")

        return loaded

    for name in ("load", "load_vla"):
        monkeypatch.setattr(teacher, name, loader(name))
    monkeypatch.setattr(teacher, "available_models", lambda: ["prism-7b"])
    return asked


def folder_of(place, **config):
    (place / "checkpoints").mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    for name in ("step-000004-epoch-00-loss=1.0.pt", "latest-checkpoint.pt"):
        (place / "checkpoints" / name).touch()
    return place


def test_what_lies_at_the_path_tells_how_it_is_loaded(place, tmp_path, loaders):
    run_of = folder_of(tmp_path / "run", vla={}) / "checkpoints" / "step-000004-epoch-00-loss=1.0.pt"
    base = folder_of(tmp_path / "base", model={})
    for path in (str(run_of), str(base), "prism-7b"):
        with pytest.raises((ValueError, AssertionError), match="Missing `dataset"):
            teacher.load_teacher(path, torch.float32, torch.device("cpu"))
    assert loaders == [("load_vla", str(run_of)), ("load", str(base)), ("load", "prism-7b")]
    (place / "model" / "checkpoints").mkdir(exist_ok=True)
    found = teacher.load_teacher(str(place / "model"), torch.bfloat16, torch.device("cpu"))
    assert next(found.model.parameters()).dtype == torch.bfloat16
    assert len(loaders) == 3


@pytest.mark.parametrize(
    ("config", "path", "said"),
    [
        ({"vla": {}}, "it", "it/config.json is of a run of train.py; name one of"),
        ({"model": {}}, "it/checkpoints/latest-checkpoint.pt", "it/config.json is of no run; name its folder"),
        ({"vla": {}}, "it/checkpoints/latest-checkpoint.pt", "upstream's loader refuses it: Missing `dataset_stat"),
    ],
)
def test_a_native_checkpoint_that_cannot_be_loaded_is_named(place, tmp_path, loaders, capsys, config, path, said):
    folder_of(tmp_path / "it", **config)
    options = ["--probe", str(place / "probe"), "--out", str(tmp_path / "icms"), "--layers", "1"]
    assert command.main(["--vla_path", str(tmp_path / path), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "icms").exists()
