"""What the next attempt is: the command as it was given, what was learned, and the checkpoint that it goes on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from runners.supervise import carry, checkpoints
from runners.supervise.checkpoints import Checkpoint
from runners.supervise.command import Command
from runners.supervise.decisions import State

PORTS = ("--master_port", "--master-port", "--main_process_port", "--rdzv-endpoint", "--rdzv_endpoint")
"""Options of launchers that name a port, alone or after a host."""
PORT = "MASTER_PORT"


def learned(base: Command, state: State) -> Command:
    """The command with what earlier decisions put over it, and no checkpoint named."""
    return base.resumable().with_settings(state.settings).with_environment(state.environment)


def own(command: Command, state: State) -> list[Checkpoint]:
    """The checkpoints of the command that were not there before the first attempt, earliest step first."""
    return [item for item in checkpoints.found(command) if checkpoints.mark(item, command) not in state.kept]


def prepare(
    base: Command,
    state: State,
    folder: Path,
    say: Callable[[str], None],
    aside: Callable[[Checkpoint], None],
    start: Checkpoint | None = None,
) -> tuple[Command, Checkpoint | None]:
    """The command of the next attempt, and the checkpoint that it goes on from.

    `start` is taken where the run has no good checkpoint of its own yet. A checkpoint later than the one taken is moved
    away by `aside`: what is trained now will write another of that name.
    """
    command = learned(base, state)
    if PORT in state.environment:
        command = dataclasses.replace(command, words=with_port(command.words, state.environment[PORT]))
    can = command.restores != "nothing"
    mine = own(command, state) if (state.attempts or state.adopts) and can else []
    good = next((item for item in reversed(mine) if _good(item, command, say)), None)
    for item in mine:
        if good is None or item.step > good.step:
            aside(item)
    chosen = good or (start if can else None)
    if chosen is None:
        return command, None
    # What a trial begins from was written under the rate that the state's factors know of, like an own one.
    factor = state.factor(chosen.step) if command.restores == "all" else 1.0
    taken = carry.carried(chosen, command, factor, folder / "carried")
    if taken is not chosen:
        rate = "" if factor == 1.0 else f"the rate times {factor:g} and "
        say(f"goes on from a copy of {chosen.path.name} with {rate}the batch in force: {taken.path}")
    return command.resumed(taken), chosen


def _good(item: Checkpoint, command: Command, say: Callable[[str], None]) -> bool:
    complaint = checkpoints.complaint(item, command)
    if complaint:
        say(f"passes over {item.path.name}: {complaint}")
    return complaint is None


def with_port(words: tuple[str, ...], port: str) -> tuple[str, ...]:
    """The words with `port` wherever a launcher's option names one."""
    changed = list(words)
    for index, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name not in PORTS or not (sign or index + 1 < len(words)):
            continue
        at = index if sign else index + 1
        host = f"{(value if sign else words[at]).rpartition(':')[0]}:" if "endpoint" in name else ""
        changed[at] = f"{name}={host}{port}" if sign else f"{host}{port}"
    return tuple(changed)
