"""Which rows of an output are a sample's: where shapes tell too little it is refused, or said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from infodyn.module_paths import ProbeError
from infodyn.probe import ActivationProbe
from infodyn.probe_file import probe_path, read_probe_file
from infodyn.subset import BatchFacts
from moe_toys import batched, classifier, pictures
from torch import Tensor, nn

SAMPLES, TOKENS, DIM = 18, 6, 4


class Body(nn.Module):
    """``shaped`` of the input ``[B, T, D]`` goes through ``body``, the tokens' mean through ``head``."""

    def __init__(self, shaped: Callable[[Tensor], Tensor], tail: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Identity(), nn.Identity()
        self.shaped, self.tail = shaped, tail

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.shaped(x))
        return self.head(out.view(x.shape) if self.tail else x.mean(1))


def tokens_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def ragged(x: Tensor) -> Tensor:
    """1, 2 and 3 tokens of the samples in turn, as for variable-length attention: in a batch of 3 always 6."""
    return torch.cat([each[: 1 + number % 3] for number, each in enumerate(x)])


def evaluate(run: Path, model: nn.Module, batches: Sequence[Tensor], **options: Any) -> dict[str, Any]:
    spec = {"name": "p", "source_modules": ["body"], "target_modules": ["head"]}
    options = {"validation_subset_size": SAMPLES, "tokens_per_sample": TOKENS, "seed": 5, **options}
    samples = sum(map(len, batches))
    with ActivationProbe([spec], run, "toy", **options).watch(model.eval(), 0, samples) as watch, torch.no_grad():
        for inputs in watch.batches(batches):
            model(inputs)
    return read_probe_file(probe_path(run, "p", 0))


def of_each(read: dict[str, Any], samples: Sequence[Tensor]) -> bool:
    """Whether the rows of ``body`` are the samples' own, all of them."""
    rows = read["metadata"]["rows"]
    wanted = torch.cat(list(samples))
    numbers = [number for number, each in enumerate(samples) for _ in range(len(each))]
    return rows["sample"].tolist() == numbers and torch.equal(read["source_activations"]["body"], wanted)


@pytest.fixture
def x() -> Tensor:
    return pictures(SAMPLES, TOKENS, DIM)[0]


def test_tokens_first_is_said_where_it_looks_like_samples_first(
    tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    read = evaluate(tmp_path, Body(tokens_first), x.split(TOKENS))
    assert not of_each(read, x), "no shape tells that these rows are filed wrongly"
    assert "body gives [6, 6, 4] for each batch of 6 samples: the first dimension is taken for the" in caplog.text
    with pytest.raises(ProbeError, match=r"body gives \[6, 4, 4\] for a batch of 4 samples"):
        evaluate(tmp_path, Body(tokens_first), x.split([6, 6, 4, 2]))


def test_samples_first_is_settled_by_a_batch_of_another_size(
    tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    assert of_each(evaluate(tmp_path, Body(lambda x: x), x.split([6, 6, 4, 2])), x)
    assert caplog.text == ""


def test_rows_of_unequal_samples_are_said_where_their_number_divides(
    tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    read = evaluate(tmp_path, Body(ragged), x.split(3))
    assert not of_each(read, [each[: 1 + number % 3] for number, each in enumerate(x)])
    assert "body gives [n, features]: 2 rows a sample are taken, but samples may have unequal numbers" in caplog.text
    assert caplog.text.count("gives") == 1, "the head gives one row a sample"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (BatchFacts, r"body gives \[10, 4\] for a batch of 5 samples.* and gave 1 rows a sample before.*mask \[B, T\]"),
        (lambda size: BatchFacts(size, mask=torch.ones(size, 2)), None),
        (lambda size: BatchFacts(size, labels=torch.ones(size, 2)), None),
    ],
)
def test_another_number_of_rows_is_refused_unless_the_batch_says_it(
    tmp_path: Path, x: Tensor, facts: Callable[[int], BatchFacts], told: str | None
) -> None:
    """One token a sample in the first batch, two in the others."""
    batches = [x[:5, :1], x[5:10, :2], x[10:15, :2]]
    given = {"read_batch": lambda batch: facts(len(batch)) if batch.shape[1] == 2 else BatchFacts(len(batch))}
    if told is None:
        read = evaluate(tmp_path, Body(flat), batches[1:], **given)
        assert of_each(read, x[5:15, :2])
        return
    with pytest.raises(ProbeError, match=told):
        evaluate(tmp_path, Body(flat), batches, **given)
    assert not (tmp_path / "probes").exists()


def test_batches_of_other_lengths_with_masks(tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    batches = [x[:5, :3], x[5:10], x[10:, :4]]
    read = evaluate(
        tmp_path, Body(flat), batches, read_batch=lambda batch: BatchFacts(len(batch), mask=torch.ones(batch.shape[:2]))
    )
    assert of_each(read, [each for batch in batches for each in batch])
    assert caplog.text == ""


def test_flat_rows_beside_an_output_that_has_the_batchs_dimensions(
    tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    assert of_each(evaluate(tmp_path, Body(flat, tail=True), x.split(4)), x)
    assert caplog.text == ""


def test_all_rows_of_a_batch_of_one_are_its_samples(
    tmp_path: Path, x: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever their shape and number, as in starVLA and openvla."""
    samples = [each[None, : 1 + number % 3] for number, each in enumerate(x)]
    assert of_each(evaluate(tmp_path, Body(flat), samples), [each[0] for each in samples])
    assert of_each(evaluate(tmp_path, Body(tokens_first), samples), [each[0] for each in samples])
    assert caplog.text == ""


def test_flattened_mixtures_of_experts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their layers give what they are given, ``[B, T, D]``; where nothing has that shape, it is said once."""
    model, (x, y) = classifier(), pictures(SAMPLES, TOKENS)
    for target, said in (("norm", 0), ("head", 2), ("head", 2)):
        spec = {"name": "p", "source_modules": ["blocks.*.moe.experts.*"], "target_modules": [target]}
        probe = ActivationProbe([spec], tmp_path, "toy")
        caplog.clear()
        for epoch in (1, 2):
            with probe.watch(model, epoch, SAMPLES) as watch, torch.no_grad():
                for inputs, _ in watch.batches(batched(x, y, 4)):
                    model(inputs)
        told = [each.message for each in caplog.records if "rows a sample are taken" in each.message]
        assert [each.split()[0] for each in told] == ["blocks.0.moe.gate", "blocks.1.moe.gate"][:said]
