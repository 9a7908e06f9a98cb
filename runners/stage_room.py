"""Room on the disk for stages: what they need beside what lies there from before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runners.places import Refused
from runners.room import in_words, need, size_of
from runners.stage import Stage
from runners.stage_aside import asides
from runners.stage_records import read_begun

if TYPE_CHECKING:
    from runners.stages import Engine


def lacks(stage: Stage, *, goes_on: bool | None = None) -> int:
    """Bytes of room that the stage needs; 0: nothing is known.

    Where it goes on, beside what is in its folder; where not, that is moved aside and takes its room.
    """
    if goes_on is None:
        goes_on = stage.resume is not None and read_begun(stage.folder) is not None
    freed = [stage.folder] if goes_on else asides(stage.folder)
    return max(0, (stage.space or 0) - sum(size_of(each) for each in freed if stage.space and each.is_dir()))


def need_room_of(stage: Stage, *, goes_on: bool) -> None:
    """Refuses a stage that finds no room on its disk. Raises Refused."""
    try:
        need(stage.folder, lacks(stage, goes_on=goes_on), stage.name)
    except Refused as error:
        there_now = size_of(stage.folder) if stage.folder.is_dir() and not goes_on else 0
        own = f"; {stage.folder} holds {in_words(there_now)} from before, which are kept" if there_now else ""
        raise Refused(f"{error}{own}") from None


def need_room(engine: Engine, stages: Sequence[Stage]) -> None:
    """Refuses a run whose `stages`, without those that would be kept, find no room on their disk together.

    Raises Refused.
    """
    todo = [stage for stage in stages if stage.space and not engine.holds(stage)]
    if todo:
        need(todo[0].folder, sum(map(lacks, todo)), f"the run ({', '.join(stage.name for stage in todo)})")
