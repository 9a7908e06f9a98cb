"""Probes on evaluations: what is kept, against the model's own hooks and float64 loops; what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from infodyn.module_paths import ProbeError, matches
from infodyn.probe import ActivationProbe
from infodyn.probe_file import probe_path, read_probe_file
from infodyn.subset import BatchFacts, choose_samples
from moe_toys import (
    batched,
    chosen_by_loop,
    classifier,
    fused_expert_by_hand,
    pictures,
    texts,
    tiny_language_model,
)
from torch import nn

SAMPLES, SIZE = 23, 9
SPEC = {"name": "p", "source_modules": ["blocks.*.moe.experts.*"], "target_modules": ["norm", "head"]}


def make(run: Path, spec: dict[str, Any] = SPEC, **options: Any) -> ActivationProbe:
    options = {"validation_subset_size": SIZE, "tokens_per_sample": 3, "seed": 5, **options}
    return ActivationProbe([spec], run, "toy", **options)


def evaluate(probe: ActivationProbe, model: nn.Module, epoch: int = 1, batch: int = 4, **options: Any) -> None:
    x, y = pictures(SAMPLES)
    with probe.watch(model, epoch, options.get("samples", SAMPLES)) as watch, torch.no_grad():
        for inputs, _ in watch.batches(batched(x, y, batch)):
            model(inputs)


def hooks_of(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    """Every module's input and output on all samples at once, without a probe: ``[B, T, D]`` or ``[B, D]``."""
    model, (x, _) = classifier(), pictures(SAMPLES)
    kept: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if ".experts" not in name:
            module.register_forward_hook(lambda _, args, out, name=name: kept.update({name: out, f"{name}<": args[0]}))
    with torch.no_grad():
        model(x)
    return kept


def test_what_is_kept_and_counted(tmp_path: Path, outputs: dict[str, torch.Tensor]) -> None:
    model = classifier()
    evaluate(make(tmp_path), model)
    read = read_probe_file(probe_path(tmp_path, "p", 1))
    metadata, rows = read["metadata"], read["metadata"]["rows"]
    sample, token = rows["sample"].tolist(), rows["token"].tolist()
    assert sorted(set(sample)) == choose_samples(SAMPLES, SIZE, 5)
    assert len(sample) == len(set(zip(sample, token, strict=True))) == SIZE * 3
    assert (metadata["probe_name"], metadata["epoch"], metadata["dataset_name"]) == ("p", 1, "toy")
    paths = [f"blocks.{block}.moe.experts.{expert}" for block in range(2) for expert in range(5)]
    assert metadata["source_modules"] == list(read["source_activations"]) == paths
    assert read["labels"].tolist() == [number % 3 for number in sample]
    for row, (s, t) in enumerate(zip(sample, token, strict=True)):
        assert torch.allclose(read["target_activations"]["norm"][row], outputs["norm"][s, t], rtol=0, atol=1e-12)
        assert torch.allclose(read["target_activations"]["head"][row], outputs["head"][s], rtol=0, atol=1e-12)
    for block in range(2):
        where = f"blocks.{block}.moe"
        gate = outputs[f"{where}.gate"].reshape(SAMPLES, 7, 5)
        chosen = chosen_by_loop(gate.reshape(-1, 5), 2)
        counts = Counter(expert for row in chosen for expert in row)
        assert metadata["expert_activation_counts"][f"{where}.experts"] == {e: counts[e] for e in range(5)}
        routed = rows["routed_experts"][f"{where}.experts"]
        for row, (s, t) in enumerate(zip(sample, token, strict=True)):
            assert set(routed[row].tolist()) == set(chosen[s * 7 + t])
            hidden = outputs[f"{where}<"][s, t]
            for expert in range(5):
                linear = model.blocks[block]["moe"].experts[expert][0]
                by_hand = torch.stack([w @ hidden + b for w, b in zip(linear.weight, linear.bias, strict=True)]).tanh()
                kept = read["source_activations"][f"{where}.experts.{expert}"][row]
                assert torch.allclose(kept, by_hand, rtol=0, atol=1e-12)


def test_the_same_rows_at_every_epoch_and_batch_size(tmp_path: Path) -> None:
    model = classifier()
    for epoch, batch in ((1, 4), (2, 7), (3, SAMPLES)):
        evaluate(make(tmp_path), model, epoch, batch)
    first, *others = (read_probe_file(probe_path(tmp_path, "p", epoch)) for epoch in (1, 2, 3))
    for each in others:
        for key in ("sample", "token"):
            assert torch.equal(each["metadata"]["rows"][key], first["metadata"]["rows"][key])
        assert each["metadata"]["expert_activation_counts"] == first["metadata"]["expert_activation_counts"]
        for name, values in first["source_activations"].items():
            torch.testing.assert_close(each["source_activations"][name], values)
    evaluate(make(tmp_path, seed=6), model, 4)
    other = read_probe_file(probe_path(tmp_path, "p", 4))["metadata"]["rows"]
    assert not torch.equal(other["sample"], first["metadata"]["rows"]["sample"])


def test_experts_are_asked_for_many_rows_or_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    for epoch, at_once in enumerate((1, 8, 1000)):
        monkeypatch.setattr("infodyn.watch._AT_ONCE", at_once)
        model = classifier()
        model.blocks[0]["moe"].experts[2].register_forward_hook(lambda _, args, out: calls.append(len(args[0])))
        evaluate(make(tmp_path), model, epoch)
    few, some, many = (read_probe_file(probe_path(tmp_path, "p", epoch))["source_activations"] for epoch in range(3))
    assert 9 * 3 in calls, "the whole subset at once"
    for name, values in few.items():
        torch.testing.assert_close(values, some[name])
        torch.testing.assert_close(values, many[name])


@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
def test_transformers_models(tmp_path: Path, kind: str) -> None:
    """Padded texts: padding is neither counted nor kept, and a fused expert's own output is recovered."""
    model, data = tiny_language_model(kind), texts(SAMPLES)
    spec = {"name": "p", "source_modules": ["**.mlp.experts.*"], "target_modules": ["model.norm"]}
    inputs: dict[str, list[torch.Tensor]] = {"hidden": [], "logits": [], "norm": []}
    with make(tmp_path, spec).watch(model, 0, SAMPLES) as watch, torch.no_grad():
        for start in watch.batches([{k: v[i : i + 5] for k, v in data.items()} for i in range(0, SAMPLES, 5)]):
            model(**start)
    # The reference runs after the probe's hooks are gone.
    block = model.model.layers[1].mlp
    block.gate.register_forward_hook(
        lambda m, args, out: inputs["hidden"].append(args[0]) or inputs["logits"].append(args[0] @ m.weight.T)
    )
    model.model.norm.register_forward_hook(lambda m, args, out: inputs["norm"].append(out))
    with torch.no_grad():
        model(**data)
    hidden, logits = inputs["hidden"][0].view(SAMPLES, 9, -1), inputs["logits"][0].view(SAMPLES, 9, -1)
    read = read_probe_file(probe_path(tmp_path, "p", 0))
    rows = read["metadata"]["rows"]
    number = logits.shape[-1]
    counts: Counter[int] = Counter()
    for sample in range(SAMPLES):
        for token in range(9):
            if data["attention_mask"][sample, token]:
                counts.update(chosen_by_loop(logits[sample, token][None], 2)[0])
    where = "model.layers.1.mlp.experts"
    assert read["metadata"]["expert_activation_counts"][where] == {e: counts[e] for e in range(number)}
    assert len(read["source_activations"]) == 2 * number
    kept = Counter(rows["sample"].tolist())
    assert kept == {s: min(3, int(data["attention_mask"][s].sum())) for s in choose_samples(SAMPLES, SIZE, 5)}
    assert min(kept.values()) < 3, "no text is shorter than what is kept of one"
    for row, (sample, token) in enumerate(zip(rows["sample"].tolist(), rows["token"].tolist(), strict=True)):
        column = data["attention_mask"][sample].nonzero().flatten().tolist()[token]
        chosen = chosen_by_loop(logits[sample, column][None], 2)[0]
        assert set(rows["routed_experts"][where][row].tolist()) == set(chosen)
        assert read["labels"][row] == data["input_ids"][sample, column]
        torch.testing.assert_close(read["target_activations"]["model.norm"][row], inputs["norm"][0][sample, column])
        for expert in range(number):
            by_hand = fused_expert_by_hand(block.experts, expert, hidden[sample, column])
            torch.testing.assert_close(read["source_activations"][f"{where}.{expert}"][row], by_hand)


def test_probing_changes_nothing(tmp_path: Path) -> None:
    """Not the outputs, to the bit; not the state; hooks that were there stay; inference mode and autocast go too."""
    model, (x, y) = classifier(), pictures(SAMPLES)
    model.norm.register_forward_hook(lambda *call: None)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.cat([model(inputs) for inputs, _ in batched(x, y, 4)]).detach()
    for epoch, mode in enumerate((torch.no_grad, torch.inference_mode)):
        with make(tmp_path).watch(model, epoch, SAMPLES) as watch, mode():
            after = torch.cat([model(inputs) for inputs, _ in watch.batches(batched(x, y, 4))])
        assert torch.equal(before, after)
    assert hooks_of(model) == 1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    one, two = (read_probe_file(probe_path(tmp_path, "p", epoch)) for epoch in (0, 1))
    assert all(torch.equal(v, two["source_activations"][name]) for name, v in one["source_activations"].items())


@pytest.mark.parametrize("place", ["body", "forward", "install"])
def test_hooks_are_gone_after_an_error_and_nothing_is_written(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (x, y) = classifier(), pictures(SAMPLES)
    if place == "forward":
        model.head.register_forward_hook(lambda *call: 1 / 0)
    if place == "install":
        monkeypatch.setattr(model.norm, "register_forward_hook", lambda *args, **options: 1 / 0)
    own = hooks_of(model)

    def broken() -> None:
        with make(tmp_path).watch(model, 0, SAMPLES) as watch:
            assert hooks_of(model) > own
            for inputs, _ in watch.batches(batched(x, y, 4)):
                model(inputs)
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert hooks_of(model) == own
    assert not (tmp_path / "probes").exists()


def test_epochs_between_pass_without_hooks(tmp_path: Path) -> None:
    model, probe = classifier(), make(tmp_path, save_every_n_epochs=3)
    for epoch in range(5):
        with probe.watch(model, epoch, SAMPLES) as watch:
            assert bool(hooks_of(model)) == (epoch in (0, 3))
            for inputs, _ in watch.batches(batched(*pictures(SAMPLES), 4)):
                model(inputs)
    assert sorted(path.name for path in (tmp_path / "probes" / "p").iterdir()) == ["epoch_0.pt.gz", "epoch_3.pt.gz"]


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a.*.c", "a.0.c", True),
        ("a.*.c", "a.0.1.c", False),
        ("a.**.c", "a.0.1.c", True),
        ("a.**.c", "a.c", True),
        ("**.c", "c", True),
        ("a.**", "a", True),
        ("a.?", "a.10", False),
        ("a.l*", "a.layer", True),
        ("a.b", "a.b.c", False),
        ("a.b", "axb", False),
    ],
)
def test_wildcards(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) == fits


def test_a_missing_path_is_told_with_the_nearest(tmp_path: Path) -> None:
    for pattern, near in (
        ("blocks.0.moe.expert.2", r"blocks\.0\.moe\.experts\.0"),
        ("blocks.*.moe.xperts.*", r"blocks\.\*\.moe\.experts\.\*"),
        ("normm", "norm"),
    ):
        probe = make(tmp_path, {**SPEC, "source_modules": ["head", pattern]})
        with pytest.raises(ProbeError, match=rf"probe 'p', source_modules: no module.*nearest are {near}"):
            evaluate(probe, classifier())
    with pytest.raises(ProbeError, match=r"target_modules: no module.*'model\.layers\.0\.mlp\.experts\.5'"):
        evaluate(
            make(tmp_path, {**SPEC, "source_modules": ["lm_head"], "target_modules": ["model.layers.0.mlp.experts.5"]}),
            tiny_language_model("qwen3"),
        )


def test_wrappers_are_left_out_of_paths(tmp_path: Path) -> None:
    class OptimizedModule(nn.Module):
        """Names what it wraps as torch.compile's does, and has its attributes as that has."""

        def __init__(self, wrapped: nn.Module) -> None:
            super().__init__()
            self._orig_mod = wrapped

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._orig_mod(x)

        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    model = classifier()
    model.blocks[1]["moe"] = OptimizedModule(model.blocks[1]["moe"])
    evaluate(make(tmp_path), nn.DataParallel(OptimizedModule(model)).eval())
    read = read_probe_file(probe_path(tmp_path, "p", 1))
    assert list(read["source_activations"]) == [f"blocks.{b}.moe.experts.{e}" for b in range(2) for e in range(5)]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"source_modules": ["blocks.0.moe.experts.1.0"]}, "runs on the tokens routed to it only"),
        ({"source_modules": []}, "at least one source"),
        ({"source_modules": "head"}, "must be a list"),
        ({"source_modules": 3}, "must be a list of module paths, not 3"),
        ({"target_modules": ["head", 2]}, "must be a list of module paths"),
        ({"sources": ["head"]}, "has the keys"),
        ({3: ["head"]}, "has the keys"),
        ({"name": 3}, "probe name 3 must be text"),
        ({"name": "a/b"}, "becomes a folder"),
        ({"source_modules": ["blocks"]}, "never ran"),
    ],
)
def test_specs_that_cannot_be_meant(tmp_path: Path, spec: dict[str, Any], told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        evaluate(make(tmp_path, {**SPEC, **spec}), classifier())


@pytest.mark.parametrize("spec", ["head", 3, ["head"], None])
def test_a_probe_that_is_no_mapping(tmp_path: Path, spec: Any) -> None:
    with pytest.raises(ProbeError, match="a probe is a mapping with name"):
        make(tmp_path, spec)


@pytest.mark.parametrize("value", ["64", 2.5, True, None, 0, -1])
@pytest.mark.parametrize("option", ["validation_subset_size", "tokens_per_sample", "save_every_n_epochs", "seed"])
def test_options_that_are_no_whole_numbers(tmp_path: Path, option: str, value: Any) -> None:
    if option == "seed" and value in (0, -1):
        assert make(tmp_path, seed=value).seed == value
        return
    with pytest.raises(ProbeError, match=rf"{option} is {value!r}; it must be a whole number"):
        make(tmp_path, **{option: value})


def test_a_diverged_models_activations_are_kept(tmp_path: Path) -> None:
    """NaN is what its experts are given, and no sign that they are given other hidden states than their router."""
    model = classifier()
    with torch.no_grad():
        model.blocks[0]["moe"].experts[0][0].bias[2] = float("nan")
    evaluate(make(tmp_path), model)
    kept = read_probe_file(probe_path(tmp_path, "p", 1))["source_activations"]
    assert kept["blocks.0.moe.experts.0"].isnan().any(0).tolist() == [False, False, True, False, False, False]
    assert kept["blocks.0.moe.experts.1"].isfinite().all()
    assert kept["blocks.1.moe.experts.0"].isnan().any()


def test_experts_whose_router_is_not_known_are_refused(tmp_path: Path) -> None:
    model = classifier()
    for block in model.blocks:
        block["moe"].chooser = block["moe"].gate
        del block["moe"].gate
    with pytest.raises(ProbeError, match=r"blocks\.0\.moe\.experts\.0 runs on the tokens routed to it only"):
        evaluate(make(tmp_path), model)


@pytest.mark.parametrize("path", ["model.layers.1.mlp.experts.act_fn", "**.act_fn"])
def test_what_fused_experts_hold_beside_their_weights_is_refused(tmp_path: Path, path: str) -> None:
    """transformers' ``act_fn`` lies where an expert would; ``experts.*`` leaves it out (test_transformers_models)."""
    model = tiny_language_model("qwen3")
    model.get_submodule("model.layers.1.mlp.experts.act_fn")
    spec = {"name": "p", "source_modules": [path], "target_modules": ["model.norm"]}
    told = r"model\.layers\.\d\.mlp\.experts\.act_fn runs on the tokens routed to it only"
    with pytest.raises(ProbeError, match=told), make(tmp_path, spec).watch(model, 0, SAMPLES):
        pass


def test_fused_experts_whose_weights_are_flattened_are_refused(tmp_path: Path) -> None:
    """As an engine may leave them: then ``act_fn`` is all that is left below ``experts``."""
    model = tiny_language_model("qwen3")
    for layer in model.model.layers:
        for name, weight in list(layer.mlp.experts.named_parameters()):
            setattr(layer.mlp.experts, name, nn.Parameter(weight.flatten()))
    spec = {"name": "p", "source_modules": ["**.mlp.experts.*"], "target_modules": ["model.norm"]}
    with pytest.raises(ProbeError, match="runs on the tokens"), make(tmp_path, spec).watch(model, 0, SAMPLES):
        pass


def test_what_shared_experts_hold_may_be_probed(tmp_path: Path) -> None:
    model = classifier()
    for block in model.blocks:
        block["moe"].shared_experts = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(ProbeError, match=r"shared_experts\.0.* never ran"):
        evaluate(make(tmp_path, {**SPEC, "source_modules": ["**.shared_experts.0"]}), model)


def test_experts_that_are_given_other_hidden_states_than_their_router(tmp_path: Path) -> None:
    model = classifier()
    model.blocks[1]["moe"].scale = 0.5
    with pytest.raises(ProbeError, match=r"blocks\.1\.moe\.experts\.\d is not given the hidden states"):
        evaluate(make(tmp_path), model)


@pytest.mark.parametrize(("samples", "told"), [(SAMPLES + 1, "read 23 samples"), (SAMPLES - 1, "read 23 samples")])
def test_another_number_of_samples(tmp_path: Path, samples: int, told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        evaluate(make(tmp_path), classifier(), samples=samples)
    assert not (tmp_path / "probes").exists()


def test_forwards_that_are_no_evaluation_of_a_batch(tmp_path: Path) -> None:
    model, (x, y) = classifier(), pictures(SAMPLES)
    with pytest.raises(ProbeError, match="no batch was announced"), make(tmp_path).watch(model, 0, SAMPLES):
        model(x)
    for twice, told in ((False, "training mode"), (True, "ran twice in one batch")):
        model.train(not twice)

        def twice_each() -> None:
            with make(tmp_path).watch(model, 0, SAMPLES) as watch:
                for inputs, _ in watch.batches(batched(x, y, 4)):
                    model(inputs)
                    model(inputs)

        with pytest.raises(ProbeError, match=told):
            twice_each()
    assert hooks_of(model) == 0


def test_labels_and_masks_that_fit_nothing(tmp_path: Path) -> None:
    for facts, told in (
        (lambda batch: BatchFacts(len(batch[0]), labels=torch.zeros(len(batch[0]), 4)), "labels fit neither"),
        (lambda batch: BatchFacts(len(batch[0]), mask=torch.ones(len(batch[0]), 4)), "mask is \\[4, 4\\]"),
        (lambda batch: BatchFacts(len(batch[0]) + 1), "for a batch of 5 samples"),
    ):
        with pytest.raises(ProbeError, match=told):
            evaluate(make(tmp_path, read_batch=facts), classifier())


def test_modules_with_other_tokens_are_not_mixed(tmp_path: Path) -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)[:, ::2])

    probe = make(tmp_path, {"name": "p", "source_modules": ["first"], "target_modules": ["second"]})
    with pytest.raises(ProbeError, match="other numbers of tokens"):
        evaluate(probe, Halved().eval())


def test_a_small_validation_set_is_kept_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(make(tmp_path, validation_subset_size=100, tokens_per_sample=50), classifier())
    rows = read_probe_file(probe_path(tmp_path, "p", 1))["metadata"]["rows"]
    assert rows["sample"].tolist() == [sample for sample in range(SAMPLES) for _ in range(7)]
    assert rows["token"].tolist() == list(range(7)) * SAMPLES
    assert "23 samples, fewer than the probes' 100" in caplog.text
