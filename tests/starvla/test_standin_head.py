"""The stand-in's head lets the same things reach the actions as the real one (see tests/starvla_real/test_head.py)."""

from tests.standins.head_reach import REACH, reach_in
from tests.standins.starvla_project import STANDIN


def test_the_actions_see_the_context_alone() -> None:
    assert reach_in(STANDIN) == REACH
