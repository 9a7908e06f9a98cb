"""What came out of a comparison: means and intervals over training seeds, from the episodes' logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runners.intervals import Mean, mean_of, ratio_of
from runners.reach_world.evaluate import figures

Episodes = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Results:
    """`episodes[arm][world][seed]`: the logs of one trained policy in one world. `says[arm]` is the arm in words,
    `compared` the one whose losses others win back (the first where it is empty). Raises ValueError without arms, and
    for `compared` none of them.
    """

    episodes: Mapping[str, Mapping[str, Mapping[int, Episodes]]]
    says: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    compared: str = ""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise ValueError("no arm was evaluated: nothing to compare")
        if self.compared and self.compared not in self.episodes:
            raise ValueError(f"compared={self.compared!r} was not evaluated: one of {', '.join(self.episodes)}")

    @property
    def arms(self) -> list[str]:
        return list(self.episodes)

    @property
    def worlds(self) -> list[str]:
        return list(dict.fromkeys(world for found in self.episodes.values() for world in found))

    def values(self, arm: str, world: str, figure: str) -> dict[int, float]:
        """A figure by seed; seeds at which there is none (no success, so no steps) are left out."""
        found = {seed: figures(episodes)[figure] for seed, episodes in self.episodes[arm].get(world, {}).items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, arm: str, world: str, figure: str) -> Mean | None:
        values = list(self.values(arm, world, figure).values())
        return mean_of(values) if values else None

    def recovered(self, arm: str, world: str, calm: str = "calm") -> Mean | None:
        """Share that `arm` wins back of the success which `world` costs the compared arm: (s_arm - s) / (c - s), with
        the compared arm's c in the calm world and s in this one. Means over seeds come first, since one seed's cost can
        be next to nothing; the interval is the paired jackknife's over seeds, to which both are unknown (see
        `ratio_of`). None where nothing is lost; without an interval where one seed alone bears the loss.
        """
        first = self.compared or self.arms[0]
        own, base, best = (self.values(a, w, "success") for a, w in ((arm, world), (first, world), (first, calm)))
        seeds = sorted(own.keys() & base.keys() & best.keys())
        if not seeds:
            return None
        gained, cost = ([of[seed] - base[seed] for seed in seeds] for of in (own, best))
        return ratio_of(gained, cost)

    def distances(self, arm: str, world: str) -> list[tuple[float, float]]:
        """(control step, mean distance in centimetres between tip and target) over all episodes; an episode that has
        ended stays where it was, so that the good ones do not drop out of the mean.
        """
        courses = []
        for episodes in self.episodes[arm].get(world, {}).values():
            courses += [[_distance(row) for row in episode["trace"]] for episode in episodes]
        length = max(map(len, courses), default=0)
        full = [course + [course[-1]] * (length - len(course)) for course in courses]
        return [(step + 1.0, sum(course[step] for course in full) / len(full)) for step in range(length)]

    def plain(self) -> dict[str, Any]:
        """All figures as numbers for JSON: arm, world, figure, then mean, half and count."""
        names = ("success", "wrong", "steps", "recovery_steps", "sampling_ms", "control_hz", "interruptions")
        found: dict[str, Any] = {}
        for arm in self.arms:
            found[arm] = {}
            for world in self.worlds:
                row = {name: _pair(self.mean(arm, world, name)) for name in names}
                found[arm][world] = row | {"recovered": _pair(self.recovered(arm, world))}
        return found


def _distance(row: Mapping[str, Any]) -> float:
    return 100.0 * sum((a - b) ** 2 for a, b in zip(row["tip"], row["target"], strict=True)) ** 0.5


def _pair(mean: Mean | None) -> dict[str, Any] | None:
    if mean is None:
        return None
    half = None if mean.half is None else round(mean.half, 4)
    return {"mean": round(mean.mean, 4), "half": half, "count": mean.count}
