"""bench/tune.py: what a run's trials come to, and a small run of it."""

from __future__ import annotations

from bench import tune as bench
from bench.plateau_curves import case

USUAL, THIRD = bench.USUAL, 1 / 3


def test_another_noise_is_on_the_same_curve() -> None:
    one, same, other = (case(3, True, False, THIRD, USUAL, again) for again in (0, 0, 1))
    assert one == same
    assert other.losses != one.losses
    assert (other.family, other.onset, other.scatter) == (one.family, one.onset, one.scatter)
    apart = [new - old for new, old in zip(other.losses, one.losses, strict=True)]
    assert sorted(map(abs, apart))[len(apart) // 2] < 5 * one.scatter


def test_what_changes_nothing_is_seldom_better_and_what_helps_often_is() -> None:
    """A small run of the bench: at its figures (3 %, 85 %) chance breaks each bound less than once in 500."""
    found = [one for one in (bench.tried((seed, True, False)) for seed in range(50)) if one is not None]
    assert len(found) > 30
    assert sum(bool(one["nothing"]) for one in found) <= 6
    assert sum(bool(one["lower by 2"]) for one in found) >= 0.65 * len(found)
