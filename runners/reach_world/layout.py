"""What an episode is made of, by its seed: the objects, the instruction, where the tool starts, what will go wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.65, 0.18),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.92, 0.82, 0.10),
    "purple": (0.55, 0.15, 0.65),
}
SHAPES = {"ball": 0.034, "cube": 0.030, "cylinder": 0.032}
"""Half height of each shape in metres, which is the height of its centre on the table."""
REACH = 0.16
"""Objects lie at |x|, |y| <= REACH."""
APART = 0.11
"""Least distance between two objects' centres."""
TRIES = 400


@dataclass(frozen=True)
class Thing:
    """One object: `place` is its centre's (x, y) at the start. No two of an episode share a colour."""

    colour: str
    shape: str
    place: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Disturbances:
    """What goes wrong. The directions come from the episode's seed, what and how far from here.

    `move_step`: the control step before which the named object is moved (None: never). `move`: least and greatest
    distance of that move. `tool_offset`: how far the tip is, sideways, from where the robot believes it to be; state
    and camera pose know nothing of it. Raises ValueError for lengths or steps that cannot be.
    """

    move_step: int | None = None
    move: tuple[float, float] = (0.07, 0.11)
    tool_offset: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.move
        if self.move_step is not None and self.move_step < 1:
            raise ValueError(f"move_step={self.move_step}: the first observation comes before step 1, so 1 or more")
        if not 0 < low <= high <= REACH:
            raise ValueError(f"move={self.move}: wants 0 < least <= greatest <= {REACH} metres")
        if not 0 <= self.tool_offset <= 0.05:
            raise ValueError(f"tool_offset={self.tool_offset}: wants 0 to 0.05 metres")


CALM = Disturbances()
"""Nothing goes wrong."""


@dataclass(frozen=True)
class Layout:
    """One episode. `named` indexes `things`; `start` is where the robot believes the tip to be, [x, y, z];
    `moved_to` is where the named object goes if it is moved; `offset` is (x, y) of the tool's error.
    """

    seed: int
    things: tuple[Thing, ...]
    named: int
    start: tuple[float, float, float]
    moved_to: tuple[float, float]
    offset: tuple[float, float]

    @property
    def target(self) -> Thing:
        return self.things[self.named]

    @property
    def instruction(self) -> str:
        return f"touch the {self.target.name}"


def layout_of(seed: int, disturbances: Disturbances = CALM, things: int = 4) -> Layout:
    """The episode of a seed: with and without disturbances the same objects and the same start.

    Seeds that agree in seed // things see the same scene and name its objects in turn, so that no scene is known by its
    looks: the instruction must be read. (They part where an object has no free place to be moved to.)

    Raises ValueError for a number of things other than 2 to 5, or a seed below 0.
    """
    if not 2 <= things <= len(COLOURS):
        raise ValueError(f"things={things}: a scene holds 2 to {len(COLOURS)}, each of a colour of its own")
    if seed < 0:
        raise ValueError(f"seed={seed}: wants 0 or more")
    scene, trouble = np.random.default_rng([seed // things, 0]), np.random.default_rng([seed, 1])
    named = seed % things
    for _ in range(TRIES):
        found = _arrange(scene, things)
        if found is None:
            continue
        start = (*(float(x) for x in scene.uniform(-0.06, 0.06, 2)), float(scene.uniform(0.15, 0.19)))
        others = [thing.place for index, thing in enumerate(found) if index != named]
        moved_to = _new_place(trouble, found[named].place, others, disturbances.move)
        if moved_to is None:
            continue
        angle = float(trouble.uniform(0, 2 * math.pi))
        length = disturbances.tool_offset
        offset = (length * math.cos(angle), length * math.sin(angle))
        return Layout(seed, found, named, start, moved_to, offset)
    raise RuntimeError(f"no arrangement of {things} things for seed {seed} in {TRIES} tries: ask for fewer")


def _arrange(rng: np.random.Generator, count: int) -> tuple[Thing, ...] | None:
    colours = rng.permutation(list(COLOURS))[:count]
    shapes = rng.choice(list(SHAPES), count)
    places: list[tuple[float, float]] = []
    for _ in range(TRIES):
        x, y = (float(value) for value in rng.uniform(-REACH, REACH, 2))
        if _clear((x, y), places):
            places.append((x, y))
        if len(places) == count:
            return tuple(Thing(str(c), str(s), p) for c, s, p in zip(colours, shapes, places, strict=True))
    return None


def _new_place(
    rng: np.random.Generator, place: tuple[float, float], others: list[tuple[float, float]], move: tuple[float, float]
) -> tuple[float, float] | None:
    for _ in range(TRIES):
        angle, length = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(*move))
        x, y = place[0] + length * math.cos(angle), place[1] + length * math.sin(angle)
        if max(abs(x), abs(y)) <= REACH and _clear((x, y), others):
            return x, y
    return None


def _clear(place: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return all(math.dist(place, other) >= APART for other in others)
