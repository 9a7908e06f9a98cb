"""The thermostat: what it measures, how it steers, that it goes on where it stopped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from research.config import ThermostatConfig
from research.hooks.hsw_hook import Damping
from research.ranks import Ranks
from research.thermostat.thermostat import CEILING, NARROWEST, Thermostat

ALONE = Ranks(None, torch.device("cpu"))
N, SIZE = 11, 6
TEACHER = {layer: torch.randn(N, SIZE, generator=torch.Generator().manual_seed(layer)) for layer in (2, 5)}


def scaled(factor: Callable[[int], float]) -> Any:
    """A student whose states are the teacher's times ``factor(call)``: its relative drift is factor^2 - 1."""
    calls = []

    def states(indices: Sequence[int]) -> dict[int, torch.Tensor]:
        calls.append(list(indices))
        return {layer: pooled[list(indices)].double() * factor(len(calls)) for layer, pooled in TEACHER.items()}

    states.calls = calls  # type: ignore[attr-defined]
    return states


def drifting(drifts: Sequence[float]) -> Any:
    return scaled(lambda call: (1 + drifts[call - 1]) ** 0.5)


def make(states: Any, seed: int = 7, **changed: Any) -> Thermostat:
    given: dict[str, Any] = {"samples": 4, "cold_start": 2, "smoothing": 0.5, **changed}
    return Thermostat(ThermostatConfig(**given), TEACHER, states, ALONE, seed)


def test_the_drift_is_the_mean_over_layers_of_the_same_samples() -> None:
    thermostat = make(drifting([0.0, 0.21]))
    first, second = (thermostat.check(Damping(0.5, 0.1)) for _ in range(2))
    assert first.mean == 0.0
    assert first.distance == {2: 0.0, 5: 0.0}
    assert second.mean == pytest.approx(0.21, rel=1e-6)
    for layer, pooled in TEACHER.items():
        chosen = pooled[thermostat.indices(1)].double()
        assert second.relative[layer] == pytest.approx(0.21, rel=1e-6)
        assert second.distance[layer] == pytest.approx(0.21 * float(torch.cov(chosen.T).norm()), rel=1e-6)


def test_sub_batches_go_round_the_whole_set_by_seed() -> None:
    thermostat = make(scaled(lambda call: 1.0))
    pieces = [thermostat.indices(check) for check in range(N)]
    assert all(len(set(piece)) == 4 for piece in pieces)
    assert sorted(itertools.chain(*pieces)) == sorted(list(range(N)) * 4)
    assert make(None).indices(3) == thermostat.indices(3) != make(None, seed=8).indices(3)
    assert sorted(make(None, samples=50).indices(2)) == list(range(N))


def test_forwards_are_no_larger_than_configured() -> None:
    states = scaled(lambda call: 1.0)
    thermostat = make(states, samples=7, batch_size=3)
    thermostat.check(Damping(0.5, 0.1))
    assert [len(call) for call in states.calls] == [3, 3, 1]
    assert list(itertools.chain(*states.calls)) == thermostat.indices(0)


def test_the_cold_start_measures_and_does_not_steer() -> None:
    damping = Damping(0.5, 0.1)
    thermostat = make(drifting([0.0, 0.02, 0.04, 0.06]), smoothing=0.0)
    for expected in (True, True):
        assert thermostat.check(damping).cold is expected
        assert (damping.beta, damping.gamma) == (0.5, 0.1)
    assert not thermostat.check(damping).cold
    # The constants stand half way, so the drift at which steering begins is the middle of the range.
    assert (thermostat.low, thermostat.high) == (0.0, pytest.approx(0.08, rel=1e-6))
    assert (damping.beta, damping.gamma) == (pytest.approx(0.5, rel=1e-6), pytest.approx(0.1, rel=1e-6))
    thermostat.check(damping)
    assert thermostat.high == pytest.approx(0.08, rel=1e-6)
    assert (damping.beta, damping.gamma) == (pytest.approx(0.35, rel=1e-5), pytest.approx(0.05, rel=1e-5))


@settings(max_examples=60, deadline=None)
@given(
    beta=st.floats(0.2, 0.8),
    gamma=st.floats(0, 0.2),
    steps=st.lists(st.floats(1e-3, 0.2), min_size=4, max_size=8),
    smoothing=st.floats(0, 0.9),
)
def test_steering_never_begins_weaker_than_the_cold_start(
    beta: float, gamma: float, steps: list[float], smoothing: float
) -> None:
    damping = Damping(beta, gamma)
    thermostat = make(drifting([0.0, *itertools.accumulate(steps)]), smoothing=smoothing)
    before = damping.beta, damping.gamma
    for _ in range(len(steps) + 1):
        thermostat.check(damping)
        assert damping.beta <= before[0] + 1e-9
        assert damping.gamma <= before[1] + 1e-9
        before = damping.beta, damping.gamma


def test_a_run_that_drifts_far_is_damped_more_than_one_that_drifts_little() -> None:
    ends = []
    for scale in (0.05, 0.5):
        damping = Damping(0.5, 0.1)
        thermostat = make(drifting([0.0, 0.8 * scale, scale, scale]))
        for _ in range(4):
            thermostat.check(damping)
        ends.append((damping.beta, damping.gamma))
    assert thermostat.high == CEILING
    assert ends[1][0] < ends[0][0] - 0.1
    assert ends[1][1] < ends[0][1] - 0.03


def test_a_student_that_has_not_moved_gives_a_range_all_the_same() -> None:
    damping = Damping(0.5, 0.1)
    thermostat = make(scaled(lambda call: 1.0))
    for _ in range(3):
        thermostat.check(damping)
    assert (thermostat.low, thermostat.high) == (0.0, NARROWEST)
    assert (damping.beta, damping.gamma) == (0.8, 0.2)


def test_the_average_is_corrected_for_its_start() -> None:
    drifts = [0.3, 0.1, 0.5]
    thermostat = make(drifting(drifts), smoothing=0.8, drift_low=0.0, drift_high=1.0, cold_start=0)
    for seen in range(1, 4):
        weights = [0.8 ** (seen - 1 - i) for i in range(seen)]
        expected = sum(w * d for w, d in zip(weights, drifts, strict=False)) / sum(weights)
        assert thermostat.check(Damping(0.5, 0.1)).smoothed == pytest.approx(expected, rel=1e-6)


ranges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@settings(max_examples=200, deadline=None)
@given(beta=ranges, gamma=ranges, low=st.floats(0, 2), width=st.floats(1e-3, 5), drifts=st.lists(st.floats(0, 10)))
def test_factors_fall_with_the_drift_and_stay_in_range(
    beta: list[float], gamma: list[float], low: float, width: float, drifts: list[float]
) -> None:
    thermostat = make(
        None,
        drift_low=low,
        drift_high=low + width,
        beta_min=beta[0],
        beta_max=beta[1],
        gamma_min=gamma[0],
        gamma_max=gamma[1],
    )
    assert thermostat.factors(low) == (beta[1], gamma[1])
    assert thermostat.factors(low + width) == (beta[0], gamma[0])
    found = [thermostat.factors(drift) for drift in sorted(drifts)]
    for weaker, stronger in itertools.pairwise(found):
        assert stronger[0] <= weaker[0]
        assert stronger[1] <= weaker[1]
    assert all(beta[0] <= b <= beta[1] and gamma[0] <= g <= gamma[1] for b, g in found)


def test_a_single_outlier_moves_the_factors_by_its_weight_only() -> None:
    drifts = [0.1] * 6 + [100.0]
    damping = Damping(0.5, 0.1)
    thermostat = make(drifting(drifts), smoothing=0.8, drift_low=0.0, drift_high=50.0, cold_start=0)
    before = [thermostat.check(damping) for _ in range(6)][-1]
    steady = damping.beta
    after = thermostat.check(damping)
    share = 0.2 / (1 - 0.8**7)
    assert after.smoothed - before.smoothed == pytest.approx(share * (100 - 0.1), rel=1e-6)
    assert steady - damping.beta == pytest.approx(share * (100 - 0.1) / 50 * 0.6, rel=1e-4)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_it_goes_on_bit_for_bit(stop: int) -> None:
    drifts = [0.0, 0.013, 0.029, 0.041, 0.017, 0.09, 0.03]

    def tail(thermostat: Thermostat, damping: Damping, count: int) -> list[Any]:
        return [(thermostat.check(damping), damping.beta, damping.gamma) for _ in range(count)]

    whole_damping = Damping(0.5, 0.1)
    whole = tail(make(drifting(drifts)), whole_damping, len(drifts))
    first, damping = make(drifting(drifts)), Damping(0.5, 0.1)
    tail(first, damping, stop)
    # As it goes through a file: plain numbers only.
    state = json.loads(json.dumps(first.state_dict()))
    second = make(drifting(drifts[stop:]))
    second.load_state_dict(state)
    assert tail(second, damping, len(drifts) - stop) == whole[stop:]


def test_teachers_of_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="same 2 or more samples"):
        Thermostat(ThermostatConfig(), {1: torch.zeros(3, 2), 2: torch.zeros(4, 2)}, scaled(lambda c: 1.0), ALONE, 7)
