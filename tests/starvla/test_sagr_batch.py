"""From examples to tensors: the values, and what is said of examples that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sagr import batch


def test_the_last_actions_are_taken():
    given = [{"action": np.arange(10.0).reshape(5, 2) + shift} for shift in (0, 100)]
    got = batch.actions(given, "action", 3, 2, "why")
    assert got.dtype == torch.float32
    assert got.tolist() == [[[4, 5], [6, 7], [8, 9]], [[104, 105], [106, 107], [108, 109]]]


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (3,)])
def test_actions_that_do_not_fit(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"example 1: 'action' is .*it must be \[3 or more, 2\].*action_dim"):
        batch.actions([{"action": np.zeros((3, 2))}, {"action": np.zeros(shape)}], "action", 3, 2, "why")


def test_missing_actions_say_why_they_are_needed():
    with pytest.raises(ValueError, match=r"example\(s\) \[1\] have no 'action_tp': because"):
        batch.actions([{"action_tp": np.zeros((3, 2))}, {}], "action_tp", 3, 2, "because")


def test_actions_must_be_finite_where_they_are_needed():
    good, bad = np.zeros((3, 2)), np.full((3, 2), np.nan)
    given = [{"action": good}, {"action": bad}]
    with pytest.raises(ValueError, match=r"example\(s\) \[1\]: 'action' holds NaN or inf"):
        batch.actions(given, "action", 3, 2, "why")
    got = batch.actions(given, "action", 3, 2, "why", torch.tensor([True, False]))
    assert got.isfinite().all(dim=(1, 2)).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"\[0\]: 'action' holds NaN"):
        batch.actions(given[::-1], "action", 3, 2, "why", torch.tensor([True, False]))


def test_states():
    assert batch.state([{}, {}], None) is batch.state([{}], 0) is None
    got = batch.state([{"state": np.ones((1, 4), np.float16)}, {"state": np.zeros((1, 4))}], 4)
    assert (tuple(got.shape), got.dtype, got[0].tolist()) == ((2, 1, 4), torch.float32, [[1, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"example 0: 'state' is \[1, 3\], it must be \[1, 4\].*state_dim"):
        batch.state([{"state": np.zeros((1, 3))}], 4)
    here = {"state": np.zeros((1, 4))}
    for given, dim, says in (
        ([here, {}], 4, r"example\(s\) \[1\] have no 'state': framework.action_model.state_dim is 4; set it to null"),
        ([{}, here], 4, r"example\(s\) \[0\] have no 'state'"),
        ([{}, {}], 4, r"example\(s\) \[0, 1\] have no 'state'"),
        ([{}, here], None, r"example\(s\) \[0\] have no 'state'"),
        ([here, {"state": np.full((1, 4), np.nan)}], 4, r"example\(s\) \[1\]: 'state' holds NaN or inf"),
        ([{"state": np.full((1, 4), -np.inf)}], 4, r"example\(s\) \[0\]: 'state' holds NaN or inf"),
    ):
        with pytest.raises(ValueError, match=says):
            batch.state(given, dim)


def test_flags_and_counts():
    examples = [{"valid_tk": 1.0, "offset_tk": 2}, {"valid_tk": 0.0}]
    assert batch.flags(examples, "valid_tk", "why").tolist() == [True, False]
    assert batch.first(examples, "offset_tk", 3).tolist() == [[True, True, False], [True, True, True]]
    with pytest.raises(ValueError, match=r"\[0, 1\] have no 'valid_tp': why"):
        batch.flags(examples, "valid_tp", "why")
    with pytest.raises(ValueError, match=r"example\(s\) \[1\]: 'valid_tk' holds NaN"):
        batch.flags([{"valid_tk": 1.0}, {"valid_tk": np.nan}], "valid_tk", "why")
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=rf"example 0: 'n' is {wrong}, it must lie in 1\.\.3"):
            batch.first([{"n": wrong}], "n", 3)


@pytest.mark.parametrize("lang", ["", "  ", None])
def test_an_empty_instruction(lang: str | None):
    with pytest.raises(ValueError, match=r"example\(s\) \[1\]: 'lang' is empty"):
        batch.instructions([{"lang": "pick it up"}, {"lang": lang}])


@pytest.mark.parametrize(("lang", "kind"), [(5, "int"), (["pick"], "list"), ({"pick": 1}, "dict")])
def test_an_instruction_that_is_no_string(lang: object, kind: str):
    with pytest.raises(ValueError, match=rf"example\(s\) \[1\]: 'lang' is of type {kind}, it must be one string"):
        batch.instructions([{"lang": "pick it up"}, {"lang": lang}])


def test_a_batch_without_examples_or_images():
    with pytest.raises(ValueError, match="no example in the batch"):
        batch.instructions([])
    with pytest.raises(ValueError, match=r"example\(s\) \[0, 2\] have no 'image'"):
        batch.images([{}, {"image": "one"}, {"image": None}])
