"""What is asked for in the toy world, and which action is right.

An action has seven numbers: x, y, height, speed, turn, a second height for where a thing goes, and the gripper (0 shut,
1 open). General tasks name one thing among several by colour and shape; downstream tasks name one as well, and have
words, things and uses of the action of their own, as a new robot task has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .scenes import COLOURS, Thing, draw

CELLS = 16
TOLERANCE = 0.2
"""An action is right when no number of it is off by more: less than half the way to the next cell."""

VERBS: dict[str, tuple[float, float, float]] = {  # factor of the place, height, gripper
    "reach": (1.0, -0.5, 1.0),
    "grasp": (1.0, -0.9, 0.0),
    "lift": (1.0, 0.8, 0.0),
    "avoid": (-1.0, 0.2, 1.0),
}
ADVERBS = {"": 0.0, "slowly": -0.6, "quickly": 0.6}
TURNS = {"": 0.0, "and turn left": -0.5, "and turn right": 0.5}
SHAPES = ("block", "ball")
DOWNSTREAM = (("red block", "on", "plate"), ("blue ball", "in", "bowl"))
GOALS = {"plate": (-0.75, 0.25, 0.75), "bowl": (0.75, -0.25, -0.75)}  # speed, turn, second height
"""New uses of values that general tasks have elsewhere: a token that no task has had could not be said by LoRA alone,
which leaves the head as it is."""


@dataclass(frozen=True)
class Sample:
    """A picture uint8 [32, 32, 3], what is asked for, the right action float32 [7], and what lies on the table."""

    image: np.ndarray
    instruction: str
    action: np.ndarray
    things: tuple[Thing, ...] = ()
    named: int = 0  # which of the things the instruction names first


@dataclass(frozen=True)
class World:
    """Samples by seed: a seed of the world and a name of the split, never the same picture in two splits."""

    seed: int
    makers: dict[str, Callable[[np.random.Generator], Sample]] = field(repr=False)

    def samples(self, kind: str, count: int, split: str = "train") -> list[Sample]:
        """``count`` samples of ``general`` or ``downstream`` tasks; ``split`` is train, test or probe."""
        if kind not in self.makers:
            raise ValueError(f"no tasks {kind!r} in the toy world: one of {sorted(self.makers)}")
        stream = (self.seed, sorted(self.makers).index(kind), ("train", "test", "probe").index(split))
        rng = np.random.default_rng(stream)
        return [self.makers[kind](rng) for _ in range(count)]


def make_world(seed: int = 0) -> World:
    """The world that every function here works in; another seed has other pictures, the same tasks."""
    return World(seed, {"downstream": downstream, "general": general})


def general(rng: np.random.Generator) -> Sample:
    """One of 4 verbs x 16 things x 3 speeds x 3 turns, with three things of different colours on the table."""
    cells = rng.permutation(CELLS)[:3]
    colours = rng.permutation(list(COLOURS))[:3]
    things = [Thing(f"{colour} {rng.choice(SHAPES)}", int(cell)) for colour, cell in zip(colours, cells, strict=True)]
    verb, adverb, turn = (str(rng.choice(list(words))) for words in (VERBS, ADVERBS, TURNS))
    factor, height, gripper = VERBS[verb]
    x, y = things[0].place
    words = (verb, "the", things[0].name, adverb, turn)
    action = (factor * x, factor * y, height, ADVERBS[adverb], TURNS[turn], 0.0, gripper)
    return _sample(things, " ".join(word for word in words if word), action, rng)


def downstream(rng: np.random.Generator) -> Sample:
    """One of the downstream tasks: put a thing, which is told from others as in the general tasks, somewhere new."""
    return downstream_scene(int(rng.integers(len(DOWNSTREAM))), rng)


def downstream_scene(task: int, rng: np.random.Generator) -> Sample:
    """A sample of one downstream task: the thing to put, the ware it goes to, and two more things on the table."""
    name, _, ware = DOWNSTREAM[task]
    cells = rng.permutation(CELLS)[:4]
    colours = [colour for colour in rng.permutation(list(COLOURS)) if not name.startswith(colour)][:2]
    names = [name, ware, *(f"{colour} {rng.choice(SHAPES)}" for colour in colours)]
    things = [Thing(each, int(cell)) for each, cell in zip(names, cells, strict=True)]
    return _sample(things, instruction_of(task), (*things[0].place, 0.5, *GOALS[ware], 0.0), rng)


def instruction_of(task: int) -> str:
    name, where, ware = DOWNSTREAM[task]
    return f"put the {name} {where} the {ware}"


def _sample(things: list[Thing], instruction: str, action: tuple[float, ...], rng: np.random.Generator) -> Sample:
    order = rng.permutation(len(things))
    seen = tuple(things[i] for i in order)
    return Sample(draw(list(seen), rng), instruction, np.array(action, dtype=np.float32), seen, int(np.argmin(order)))


def is_right(predicted: np.ndarray, action: np.ndarray) -> np.ndarray:
    """For actions [..., 7]: whether no number is off by more than ``TOLERANCE``."""
    return np.max(np.abs(predicted - action), axis=-1) <= TOLERANCE
