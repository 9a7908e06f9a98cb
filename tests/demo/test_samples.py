"""The demo's conversations: well formed, answerable from goal and landmark, and the same every time."""

from __future__ import annotations

import re

from demo.samples import FEEDBACK, errands, pictures, sights

KNOWN = {"GLOBAL_CONDITION", "LANDMARK", "KEY_EVENT", "NOISE", "PROCESS_NOISE"}


def test_turns_alternate_and_carry_known_types() -> None:
    rows = errands(30) + sights(30)
    for row in rows:
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert {turn["semantic_type"] for turn in turns} <= KNOWN
    assert {turn["semantic_type"] for row in rows for turn in row["conversations"]} == KNOWN


def test_a_third_is_corrected_and_what_follows_differs_from_what_was_wrong() -> None:
    for rows in (errands(30), sights(30)):
        corrected = [row for row in rows if any(FEEDBACK in turn["value"] for turn in row["conversations"])]
        assert len(corrected) == 10
        for row in corrected:
            values = [turn["value"] for turn in row["conversations"]]
            place = next(i for i, value in enumerate(values) if FEEDBACK in value)
            assert values[place - 1] != values[place + 1]
    assert any(FEEDBACK in turn["value"] for turn in errands(1)[0]["conversations"])


def test_the_last_answers_follow_from_goal_and_landmark() -> None:
    for row in errands(30):
        values = [turn["value"] for turn in row["conversations"]]
        goal = re.fullmatch(r"Goal: take the (\w+ \w+) to the (\w+)\.", values[0])
        seen = re.fullmatch(r"You see the door of the (\w+) on the (\w+)\.", values[4])
        assert goal
        assert seen
        assert values[-1] == f"I am in the {goal[2]} with the {goal[1]}."
        assert values[-3] == f"I go {seen[2]}."


def test_pictures_and_placeholders_agree() -> None:
    for row in sights(60):
        assert sum(turn["value"].count("<image>") for turn in row["conversations"]) == len(row["images"]) == 1
        number = re.fullmatch(r"pictures/(\d+)\.png", row["images"][0])
        assert number
        assert int(number[1]) < pictures()


def test_the_same_seed_gives_the_same_conversations() -> None:
    assert errands(9, seed=3) == errands(9, seed=3) != errands(9, seed=4)
    assert sights(9, seed=3) == sights(9, seed=3) != sights(9, seed=4)
