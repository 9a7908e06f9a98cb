"""The demo's conversations: an errand with a goal, key events, chatter, and sometimes a mistake that is corrected.

The right answer depends on the goal (GLOBAL_CONDITION) and on the door that was found (LANDMARK), never on the chatter
(NOISE). Where the first answer is wrong, the user says so after `<|feedback|>`: what stands before it is not learnt.
"""

from __future__ import annotations

import random
from typing import Any

FEEDBACK = "<|feedback|>"
THINGS = ("cup", "book", "key", "lamp", "ball", "box")
COLOURS = {"red": (214, 69, 65), "green": (46, 160, 87), "blue": (52, 103, 205), "yellow": (232, 184, 36)}
ROOMS = ("kitchen", "hall", "office", "garden")
SIDES = ("left", "right")
CHATTER = (
    "The fan hums and the radio plays.",
    "It smells of coffee in here.",
    "A cat walks past the window.",
    "Someone laughs behind the wall.",
    "The clock says ten past three.",
)
SHAPES = ("circle", "square", "triangle")


def _turn(speaker: str, text: str, semantic_type: str) -> dict[str, str]:
    return {"from": speaker, "value": text, "semantic_type": semantic_type}


def errand(rng: random.Random, with_feedback: bool) -> dict[str, Any]:
    """One conversation in ShareGPT form: keys `system` and `conversations`, each turn with its `semantic_type`."""
    thing, colour, room, side = rng.choice(THINGS), rng.choice(list(COLOURS)), rng.choice(ROOMS), rng.choice(SIDES)
    wrong = SIDES[1 - SIDES.index(side)]
    turns = [
        _turn("human", f"Goal: take the {colour} {thing} to the {room}.", "GLOBAL_CONDITION"),
        _turn("gpt", f"I take the {colour} {thing} to the {room}.", "GLOBAL_CONDITION"),
        _turn("human", rng.choice(CHATTER), "NOISE"),
        _turn("gpt", "I look around.", "PROCESS_NOISE"),
        _turn("human", f"You see the door of the {room} on the {side}.", "LANDMARK"),
    ]
    if with_feedback:
        turns += [
            _turn("gpt", f"I go {wrong}.", "LANDMARK"),
            _turn("human", f"{FEEDBACK} That is the wrong way.", "KEY_EVENT"),
        ]
    turns += [
        _turn("gpt", f"I go {side}.", "KEY_EVENT"),
        _turn("human", rng.choice(CHATTER), "NOISE"),
        _turn("gpt", f"I am in the {room} with the {colour} {thing}.", "GLOBAL_CONDITION"),
    ]
    return {"system": "You run errands.", "conversations": turns}


def errands(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """`number` conversations; every third is corrected by feedback. The first one is."""
    rng = random.Random(seed)
    return [errand(rng, with_feedback=index % 3 == 0) for index in range(number)]


def look(index: int) -> tuple[str, str]:
    """The shape and the colour that picture `index` shows."""
    return SHAPES[index % len(SHAPES)], list(COLOURS)[index // len(SHAPES) % len(COLOURS)]


def pictures() -> int:
    """How many different pictures there are."""
    return len(SHAPES) * len(COLOURS)


def sights(number: int, seed: int = 1) -> list[dict[str, Any]]:
    """`number` conversations about one picture each (`pictures/INDEX.png`), every third corrected by feedback."""
    rng = random.Random(seed)
    rows = []
    for index in range(number):
        picture = rng.randrange(pictures())
        shape, colour = look(picture)
        turns = [
            _turn("human", f"<image>{rng.choice(CHATTER)}", "NOISE"),
            _turn("gpt", "I look around.", "PROCESS_NOISE"),
            _turn("human", "What do you see?", "LANDMARK"),
        ]
        if index % 3 == 0:
            other = rng.choice([name for name in SHAPES if name != shape])
            turns += [
                _turn("gpt", f"I see a {colour} {other}.", "LANDMARK"),
                _turn("human", f"{FEEDBACK} Look again.", "KEY_EVENT"),
            ]
        turns.append(_turn("gpt", f"I see a {colour} {shape}.", "KEY_EVENT"))
        rows.append({"conversations": turns, "images": [f"pictures/{picture}.png"]})
    return rows
