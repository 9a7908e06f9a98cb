"""What reaches the actions in upstream's head: the stand-in's has to agree (see tests/starvla/test_standin_head.py)."""

from pathlib import Path

from tests.standins.head_reach import REACH, reach_in


def test_the_actions_see_the_context_alone(grafted: Path) -> None:
    assert reach_in(grafted) == REACH
