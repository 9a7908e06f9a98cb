"""The thermostat: the further the probe set's hidden states drift from the teacher's, the stronger the damping.

Every K optimizer steps the student's pooled states of a sub-batch of the probe set are compared with the teacher's of
the same samples. Over layers the relative drifts ||C_S - C_T||_F / ||C_T||_F are averaged, over time they are smoothed
by a bias-corrected moving average s, and

    u = clamp((s - low) / (high - low), 0, 1),    beta = beta_max - u (beta_max - beta_min),    gamma likewise,

so both factors fall monotonically with the drift and stay in their ranges. The first ``cold_start`` measurements steer
nothing. Where no range is configured, the next one sets it: low = 0 and high = s / u0, where u0 is how far the cold
start's beta or gamma stood on the way from weak to strong, the further of the two and at least ``EARLIEST``; high is
kept between ``NARROWEST`` and ``CEILING``. So damping is strongest from the drift s = high on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..config import ThermostatConfig
from ..hooks.hsw_hook import Damping
from ..ranks import Ranks
from .drift import covariance_distance

# Relative drift from which damping is strongest at the latest, however fast the cold start drifted: at one half, half
# of what the teacher's covariance is has moved.
CEILING = 0.5
# Where on the way from weak to strong the steering begins, at least, whatever constants the cold start was run with.
EARLIEST = 0.1
# A range found in the cold start is at least this wide, in relative drift: a student that has not moved has no scale.
NARROWEST = 1e-3


class ProbeStates(Protocol):
    """The student's pooled states of probe samples; the forward runs on this rank."""

    def __call__(self, indices: Sequence[int]) -> Mapping[int, torch.Tensor]:
        """Layer number to ``[len(indices), D]`` float32."""


@dataclass(frozen=True)
class Reading:
    """One measurement, equal on all ranks."""

    distance: dict[int, float]  # d by layer
    relative: dict[int, float]  # d / ||C_T||_F by layer
    mean: float  # of the relative drifts over layers
    smoothed: float
    cold: bool  # whether it was taken in the cold start


class Thermostat:
    """Measures and steers.

    Args:
        config: see ``ThermostatConfig``.
        teacher: layer number to the teacher's pooled states ``[N, D]`` of the whole probe set, in its order.
        states: how the student's are had.
        ranks: the ranks that share the measurement.
        seed: order in which the probe set is gone through.

    Raises:
        ValueError: if the layers' teacher states are not of the same samples, or fewer than two.
    """

    def __init__(
        self,
        config: ThermostatConfig,
        teacher: Mapping[int, torch.Tensor],
        states: ProbeStates,
        ranks: Ranks,
        seed: int,
    ) -> None:
        counts = {pooled.shape[0] for pooled in teacher.values()}
        if len(counts) != 1 or min(counts) < 2:
            raise ValueError(f"thermostat: the teacher's pooled states must be of the same 2 or more samples: {counts}")
        self.config, self._teacher, self._states, self._ranks = config, dict(teacher), states, ranks
        self._order = list(range(counts.pop()))
        random.Random(seed).shuffle(self._order)
        self.checks = 0
        self.average = 0.0  # not yet corrected for its start at zero
        self.low, self.high = config.drift_low, config.drift_high

    def indices(self, check: int) -> list[int]:
        """The probe samples of measurement number ``check``: the shuffled set, cut into pieces, round and round."""
        total = len(self._order)
        size = min(self.config.samples, total)
        return [self._order[(check * size + i) % total] for i in range(size)]

    def check(self, damping: Damping) -> Reading:
        """Measure, and outside the cold start set ``damping``. Called by all ranks at the same step."""
        chosen = self.indices(self.checks)
        distance, relative = self._measure(chosen)
        mean = sum(relative.values()) / len(relative)
        cold = self.checks < self.config.cold_start
        self.checks += 1
        self.average = self.config.smoothing * self.average + (1.0 - self.config.smoothing) * mean
        smoothed = self.average / (1.0 - self.config.smoothing**self.checks)
        if not cold:
            if self.low is None or self.high is None:
                self._calibrate(smoothed, damping)
            damping.beta, damping.gamma = self.factors(smoothed)
        return Reading(distance, relative, mean, smoothed, cold)

    def factors(self, drift: float) -> tuple[float, float]:
        """beta and gamma for a smoothed relative drift, once the range is known.

        Raises:
            ValueError: it is neither given nor found yet.
        """
        if self.low is None or self.high is None:
            raise ValueError("thermostat: no range of drift yet; it is found when the cold start ends")
        u = min(max((drift - self.low) / (self.high - self.low), 0.0), 1.0)
        c = self.config
        return _between(c.beta_max, c.beta_min, u), _between(c.gamma_max, c.gamma_min, u)

    def _calibrate(self, drift: float, damping: Damping) -> None:
        """Fixes the range so that steering begins where the cold start's constants stand, and never below them.

        What has drifted further by then than ``CEILING`` allows begins stronger: the scale is not the run's own alone.
        """
        c = self.config
        begun = max(_share(c.beta_max, c.beta_min, damping.beta), _share(c.gamma_max, c.gamma_min, damping.gamma))
        self.low, self.high = 0.0, max(min(drift / max(begun, EARLIEST), CEILING), NARROWEST)

    def _measure(self, chosen: list[int]) -> tuple[dict[int, float], dict[int, float]]:
        layers = sorted(self._teacher)
        size, rank = self._ranks.size, self._ranks.rank
        # Every rank forwards equally many samples, some of them twice: under FSDP a forward is a collective.
        share = -(-len(chosen) // size)
        mine = [chosen[i % len(chosen)] for i in range(rank * share, (rank + 1) * share)]
        pieces: list[torch.Tensor] = []
        for start in range(0, share, self.config.batch_size):
            found = self._states(mine[start : start + self.config.batch_size])
            pieces.append(torch.stack([found[layer].float() for layer in layers], dim=1))
        student = self._ranks.gather(torch.cat(pieces))[: len(chosen)].cpu()
        # Computed on every rank, so that what is raised is raised on all; decided by the main rank's figures alone.
        found_here: list[float] = []
        for column, layer in enumerate(layers):
            found_here.extend(covariance_distance(student[:, column], self._teacher[layer][chosen]))
        agreed = self._ranks.from_main(found_here)
        distance, relative = (dict(zip(layers, agreed[i::2], strict=True)) for i in (0, 1))
        return distance, relative

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: with them and the same configuration the next measurement is the one that would have come."""
        return {
            "checks": self.checks,
            "average": self.average,
            "low": self.low,
            "high": self.high,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken. A range in the configuration wins over one that was found."""
        self.checks, self.average = int(state["checks"]), float(state["average"])
        if self.config.drift_low is None:
            self.low, self.high = state["low"], state["high"]


def _share(weak: float, strong: float, value: float) -> float:
    """Where ``value`` stands on the way from ``weak`` (0) to ``strong`` (1)."""
    return min(max((weak - value) / (weak - strong), 0.0), 1.0) if weak > strong else 0.0


def _between(weak: float, strong: float, u: float) -> float:
    """From ``weak`` at u = 0 to ``strong`` at u = 1, and at neither end beyond it, however it rounds."""
    return strong if u == 1.0 else min(max(weak - u * (weak - strong), strong), weak)
