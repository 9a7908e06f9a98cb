"""How a stage that is a native training goes on: from its last whole checkpoint, as runners/supervise would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runners.supervise.checkpoints import Unfit, found, last_good, quarantine
from runners.supervise.command import UnknownCommand, families, recognise


class CannotGoOn(OSError):
    """Nobody can tell from which checkpoint to go on, or how; the message says why and what to do."""


def going_on(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], say: Callable[[str], None]
) -> list[str] | None:
    """The command that goes on from the last whole checkpoint, None where there is none.

    Damaged ones of later steps are renamed, since upstreams take the latest. What the resume restores is what
    runners/supervise/upstreams.toml says of the command's family.

    Raises CannotGoOn.
    """
    try:
        known = recognise(command, folder, environment, families())
        good = last_good(known, say)
        if good is None:
            return None
        for item in found(known):
            if item.step > good.step:
                quarantine(item)
        return list(known.resumed(good).words)
    except (Unfit, UnknownCommand) as error:
        raise CannotGoOn(str(error)) from error
