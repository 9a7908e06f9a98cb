"""Predictive integrity against cases worked by hand and float64 loops, and surprise that leaves no trace."""

import copy
import math
import random

import numpy
import pytest
import torch
from infodyn.pi import (
    causal_loss_sum,
    gradient_norm,
    predictive_integrity,
    token_statistics,
    validation_surprise,
)
from torch import nn


@pytest.mark.parametrize(
    ("epsilon", "tau", "surprise", "constants", "expected"),
    [
        (2.0, 1.0, 0.5, {}, 0.2865047968601901),  # exp(-(0.5 * 2 + 0.5 * 0.5)) = exp(-1.25)
        (1.0, 2.0, 0.0, {}, 0.7788007830714049),  # exp(-0.25)
        (0.3, 0.3, 0.0, {}, 0.6065306597126334),  # loss equal to entropy, no gradient: exp(-0.5)
        (1.0, 4.0, 2.0, {"alpha": 2.0, "gamma": 0.25}, 0.2528395958047465),  # exp(-2 (0.75 / 4 + 0.5)) = exp(-1.375)
        (5.0, 1.0, 1.0, {"gamma": 1.0}, 0.36787944117144233),  # exp(-1): only the surprise
        (5.0, 1.0, 9.0, {"gamma": 0.0}, 0.006737946999085467),  # exp(-5): only the ratio
        (5.0, 1.0, 9.0, {"alpha": 0.0}, 1.0),
        (0.0, 0.0, 0.0, {}, 1.0),  # certain and right
        (3.0, 0.0, 0.0, {}, 0.0),  # certain and wrong
        (3.0, 0.0, 1.0, {"gamma": 1.0}, 0.36787944117144233),
    ],
)
def test_cases_by_hand(epsilon, tau, surprise, constants, expected):
    assert predictive_integrity(epsilon, tau, surprise, **constants) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": -1.0}, {"tau": float("nan")}, {"surprise": float("inf")}, {"alpha": -1.0}, {"gamma": 1.5},
        {"gamma": -0.1},
    ],
)  # fmt: skip
def test_what_is_no_measurement_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        predictive_integrity(**({"epsilon": 1.0, "tau": 1.0, "surprise": 1.0} | wrong))


def loop_statistics(logits, labels, shift):
    """The same sums token by token in float64, from the definitions."""
    loss = entropy = right = count = 0
    for row, wanted in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for place, label in enumerate(wanted):
            at = place - 1 if shift else place
            if label == -100 or at < 0:
                continue
            top = max(row[at])
            z = sum(math.exp(v - top) for v in row[at])
            p = [math.exp(v - top) / z for v in row[at]]
            loss -= math.log(p[label])
            entropy -= sum(q * math.log(q) for q in p if q > 0)
            right += p.index(max(p)) == label
            count += 1
    return [loss, entropy, right, count]


@pytest.mark.parametrize("shift", [True, False])
def test_token_statistics_against_a_loop(shift, monkeypatch):
    monkeypatch.setattr("infodyn.pi._ROWS", 5)  # several chunks, the last one shorter
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 11) * 3
    labels = torch.randint(0, 11, (3, 7))
    labels[0, :4] = labels[2, 5:] = -100
    found = token_statistics(logits, labels, shift=shift)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(loop_statistics(logits, labels, shift), rel=1e-6)


def test_token_statistics_without_labels_and_of_certain_logits():
    assert token_statistics(torch.randn(1, 4, 3), torch.full((1, 4), -100)).tolist() == [0, 0, 0, 0]
    certain = torch.full((1, 2, 3), -math.inf)
    certain[..., 1] = 0.0
    assert token_statistics(certain, torch.tensor([[0, 1]])).tolist() == [0, 0, 1, 1]


class Toy(nn.Module):
    """A causal model with dropout, batch norm and a frozen part: everything that a careless pass would change."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.frozen = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 9)
        self.frozen.requires_grad_(False)

    def forward(self, input_ids, labels=None):
        hidden = self.frozen(self.embed(input_ids))
        hidden = self.drop(self.norm(hidden.transpose(1, 2)).transpose(1, 2))
        return type("Output", (), {"logits": self.head(hidden)})()


def toy_batches(sizes=(3, 2)):
    torch.manual_seed(1)
    made = []
    for size in sizes:
        ids = torch.randint(0, 9, (size, 5))
        labels = ids.clone()
        labels[0, :3] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made


def test_validation_surprise_is_the_gradient_norm_of_the_mean_loss():
    torch.manual_seed(2)
    model = Toy()
    batches = toy_batches()
    found = validation_surprise(model, batches)

    reference = copy.deepcopy(model).double().eval()
    total, count = 0.0, 0
    for batch in batches:
        log_p = reference(batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        for row, wanted in enumerate(batch["labels"][:, 1:].tolist()):
            for place, label in enumerate(wanted):
                if label != -100:
                    total, count = total - log_p[row, place, label], count + 1
    (total / count).backward()
    squares = sum(float(p.grad.square().sum()) for p in reference.parameters() if p.grad is not None)
    assert found == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert found > 0.01


def test_the_split_into_batches_does_not_matter():
    torch.manual_seed(2)
    model = Toy()
    ids = torch.randint(0, 9, (6, 5))
    whole = validation_surprise(model, [{"input_ids": ids, "labels": ids}])
    parts = [{"input_ids": part, "labels": part} for part in ids.split([1, 2, 3])]
    assert validation_surprise(model, parts) == pytest.approx(whole, rel=1e-5)


def everything(model, optimizer):
    """What a measurement must not change, as bytes and plain values."""
    numpy_state = numpy.random.get_state()
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "grad_ids": {n: id(p.grad) for n, p in model.named_parameters()},
        "requires": {n: p.requires_grad for n, p in model.named_parameters()},
        "versions": {n: p._version for n, p in model.named_parameters()},
        "flags": {n: m.training for n, m in model.named_modules()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "torch": torch.get_rng_state().clone(),
        "python": random.getstate(),
        "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        "grad_mode": torch.is_grad_enabled(),
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("grad_mode", [True, False])
def test_validation_surprise_leaves_no_trace(grad_mode):
    torch.manual_seed(3)
    model = Toy().train()
    model.norm.eval()  # flags that are not all alike must come back as they were
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):
        loss, count = causal_loss_sum(model, toy_batches((4,))[0])
        (loss / count).backward()
        optimizer.step()
    batches = toy_batches()
    before = everything(model, optimizer)
    assert any(g is not None for g in before["grads"].values())

    def loss_and_noise(module, batch):
        """A loss that draws from every generator."""
        random.random(), numpy.random.rand(), torch.rand(1)
        assert not any(m.training for m in module.modules())
        return causal_loss_sum(module, batch)

    with torch.set_grad_enabled(grad_mode):
        before["grad_mode"] = grad_mode
        found = validation_surprise(model, batches, loss_and_noise)
        after = everything(model, optimizer)
    assert found > 0
    for part in before:
        assert same(before[part], after[part]), part


def test_no_trace_after_an_error_either():
    torch.manual_seed(3)
    model = Toy().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = toy_batches()
    before = everything(model, optimizer)

    def fails(module, batch):
        torch.rand(1)
        raise RuntimeError("broken batch")

    with pytest.raises(RuntimeError, match="broken batch"):
        validation_surprise(model, batches, fails)
    assert same(before, everything(model, optimizer))


def test_surprise_of_nothing_is_refused():
    model = Toy()
    unlabelled = {"input_ids": torch.ones(1, 4, dtype=torch.long), "labels": torch.full((1, 4), -100)}
    for batches in ([], [unlabelled]):
        with pytest.raises(ValueError, match="no labelled term"):
            validation_surprise(model, batches)
    with pytest.raises(ValueError, match="no parameter"):
        validation_surprise(model.requires_grad_(False), toy_batches())
    with pytest.raises(ValueError, match="no gradient"):
        gradient_norm([None])
