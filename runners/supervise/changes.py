"""The declared list of changes that `--auto-tune` tries, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.supervise.command import Command
from runners.supervise.tables import BadTable, read_toml

ANEW, ON = "anew", "on"
PLAIN = ("name", "begin", "steps", "settings")


class BadChanges(Exception):
    """The list of changes cannot be used; the message names file, entry and remedy."""


@dataclass(frozen=True)
class Change:
    """One entry: `roles` by the names of runners/supervise/upstreams.toml, `settings` by upstream's own keys.

    A role's value that begins with `x` multiplies what is in force. `begin`: `on` goes on from the best checkpoint so
    far, `anew` from the beginning (another rank of LoRA cannot take the old one's weights). `steps`: length of the
    trial in optimizer steps, 0 the command line's.
    """

    name: str
    roles: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    begin: str = ON
    steps: int = 0

    def over(self, command: Command) -> dict[str, str]:
        """What this change sets, by upstream's own keys. Raises BadChanges where a role has no value to multiply."""
        found = {}
        for role, value in self.roles.items():
            if value.startswith("x"):
                known = command.get(role)
                if known is None:
                    raise BadChanges(f"{self.name}: {role} = {value!r}: {command.family.name} has no known {role}")
                product = float(known) * float(value[1:])
                value = (
                    str(round(product)) if known.lstrip("-").isdigit() and product == round(product) else repr(product)
                )
            found[command.family.settings[role]] = value
        return {**found, **self.settings}

    def on(self, command: Command) -> Command:
        """The command with this change. Raises BadChanges as `over` does."""
        return command.with_settings(self.over(command))

    def described(self) -> dict[str, Any]:
        """All that the entry says."""
        return dataclasses.asdict(self)

    def rate_factor(self, command: Command) -> float:
        """What the rate of `command` is multiplied by."""
        if "rate" not in self.roles:
            return 1.0
        before, after = command.get("rate"), self.on(command).get("rate")
        return float(after or 1.0) / float(before) if before and float(before) else 1.0


def read(path: Path, command: Command) -> list[Change]:
    """The entries of `[[change]]` in order. Raises BadChanges."""
    try:
        data = read_toml(path)
    except BadTable as error:
        raise BadChanges(str(error)) from None
    entries = data.get("change")
    if not isinstance(entries, list) or not entries or set(data) != {"change"}:
        raise BadChanges(f"{path}: expects [[change]] entries and nothing else")
    changes = [_change(entry, f"{path}, change {number}", command) for number, entry in enumerate(entries, 1)]
    names = [change.name for change in changes]
    if len({*names}) < len(names):
        raise BadChanges(f"{path}: two changes have one name: {', '.join(sorted(names))}")
    return changes


def _change(entry: Any, where: str, command: Command) -> Change:
    if not isinstance(entry, dict) or not str(entry.get("name", "")).strip():
        raise BadChanges(f"{where}: has no name")
    roles = {key: str(value) for key, value in entry.items() if key not in PLAIN}
    if unknown := sorted(roles.keys() - command.family.settings.keys()):
        known = ", ".join(sorted(command.family.settings))
        raise BadChanges(
            f"{where}: {', '.join(unknown)}: {command.family.name} has {known}; [change.settings] takes its own keys"
        )
    settings = entry.get("settings", {})
    if not isinstance(settings, dict) or not (roles or settings):
        raise BadChanges(f"{where}: changes nothing: name a role, or [change.settings]")
    begin, steps = entry.get("begin", ON), entry.get("steps", 0)
    if begin not in (ON, ANEW) or not isinstance(steps, int) or steps < 0:
        raise BadChanges(f"{where}: begin is {ON!r} or {ANEW!r}, steps a count")
    change = Change(str(entry["name"]), roles, {key: str(value) for key, value in settings.items()}, begin, steps)
    try:
        change.on(command)
    except ValueError as error:
        raise BadChanges(f"{where}: {error}") from None
    return change
