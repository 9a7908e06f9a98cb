"""Which experts are chosen, what they are called, and the bar that says how far their pairs are."""

from __future__ import annotations

from runners.oid.experts import most_active, pairs_of, short_names


def test_the_most_active_over_all_epochs_in_the_order_of_their_names() -> None:
    epochs = [{"e.2": 9, "e.10": 5, "e.0": 1}, {"e.2": 0, "e.10": 5, "e.1": 10}]
    assert most_active(epochs, 3) == ["e.1", "e.2", "e.10"]
    assert most_active(epochs, 9) == ["e.0", "e.1", "e.2", "e.10"]


def test_ties_go_to_the_first_name() -> None:
    assert most_active([{"e.10": 3, "e.9": 3, "e.11": 3}], 2) == ["e.9", "e.10"]


def test_pairs_are_each_two_once() -> None:
    assert pairs_of(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_short_names_are_what_differs() -> None:
    names, pattern = short_names(["m.0.mlp.experts.3", "m.0.mlp.experts.12"])
    assert (list(names.values()), pattern) == (["3", "12"], "m.0.mlp.experts.{}")
    names, pattern = short_names(["m.0.mlp.experts.3", "m.1.mlp.experts.3", "m.1.mlp.experts.4"])
    assert (list(names.values()), pattern) == (["0.3", "1.3", "1.4"], "m.{}.mlp.experts.{}")
    names, pattern = short_names(["m.0.mlp", "m.0.attention.out"])
    assert (list(names.values()), pattern) == (["mlp", "attention.out"], "m.0.{}")
    names, pattern = short_names(["m.0.mlp", "m.0.mlp.gate"])
    assert (list(names.values()), pattern) == (["mlp", "mlp.gate"], "m.0.{}")
    assert short_names(["m.0.mlp"]) == ({"m.0.mlp": "mlp"}, "m.0.{}")
