"""A native command: what it is, the value of each of its settings, and the same command with others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.supervise import outputs, resume
from runners.supervise.accumulation import steps_are_free
from runners.supervise.arguments import NONE, in_file, on_line, overridden, plain, relative, resolved, true
from runners.supervise.environments import ENVIRONMENTS, bins_of
from runners.supervise.families import Family, families, text
from runners.supervise.launchers import (
    ASSIGNMENT,
    Target,
    UnknownCommand,
    interpreter_of,
    target_of,
)
from runners.supervise.masking import masked

if TYPE_CHECKING:
    from runners.supervise.checkpoints import Checkpoint

__all__ = ["Command", "Family", "UnknownCommand", "families", "recognise"]


@dataclass(frozen=True)
class Command:
    """`words` as they are run in `folder`, with `environment` added to the process's own.

    No file of the user's is changed: other settings are overrides on the command line, in upstream's own syntax.
    """

    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    family: Family
    begin: int = field(repr=False)
    """Index of the first word with a setting."""

    @cached_property
    def target(self) -> Target:
        return target_of(self.words, self.folder)

    @cached_property
    def values(self) -> dict[str, str]:
        """What words and configuration file say, by upstream's own keys (dashes as underscores); words win."""
        style, tail = self.family.style, self.words[self.begin :]
        option, default = plain(self.family.config), self.family.config_default
        said = {**in_file(style, tail, self.folder, option, default), **on_line(style, tail)}
        variables = {**os.environ, **self.environment}
        return {key: resolved(value, said, variables) if "${" in value else value for key, value in said.items()}

    def setting(self, key: str) -> str | None:
        """The value in force of one of upstream's own keys; None where neither words, file nor table say it."""
        found = self.variable(key[1:]) if key.startswith("$") else self.values.get(plain(key))
        if found is not None:
            return found
        family = self.family
        if "key" in family.variants and key != family.variants["key"]:
            of = self.setting(family.variants["key"]) or ""
            variant = family.variants.get(of, family.variants.get("", {}))
            if key in variant:
                return text(variant[key])
        roles = [role for role, name in family.settings.items() if name == key]
        return next((family.defaults[role] for role in roles if role in family.defaults), family.keys.get(key))

    def get(self, role: str) -> str | None:
        """The value in force of a role; None where it is not known, or where this family has no such role."""
        key = self.family.settings.get(role)
        if key is None or (role == "accumulation" and key.startswith("$") and not steps_are_free(self)):
            return None
        value = self.setting(key)
        # Trainers take -1 steps for "as many as the epochs need".
        return None if value in NONE or (role == "steps" and value is not None and value.startswith("-")) else value

    def variable(self, name: str) -> str | None:
        """An environment variable as the command sees it."""
        if name in self.target.variables:
            return self.words[self.target.variables[name]].partition("=")[2]
        return self.environment.get(name, os.environ.get(name))

    def with_roles(self, changes: Mapping[str, Any]) -> Command:
        """The command with other values of roles. Raises UnknownCommand on a role that its family does not have."""
        odd = [role for role in changes if role not in self.family.settings]
        if odd:
            known = ", ".join(self.family.settings)
            raise UnknownCommand(f"{self.family.name} has no setting for {', '.join(odd)}; it has {known}")
        return self.with_settings({self.family.settings[role]: value for role, value in changes.items()})

    def with_settings(self, changes: Mapping[str, Any]) -> Command:
        """The command with other values of upstream's own keys, and of what the table says must change with them."""
        made = self
        for key, value in {**self._following(changes), **changes}.items():
            made = made._with(key, text(value))
        pin = self.family.pin
        if pin and pin not in changes and self.setting(pin) is None and made.output != self.output:
            made = made._with(pin, outputs.train_name(self, whole=False))
        return made

    def _with(self, key: str, value: str) -> Command:
        if key.startswith("$"):
            return self.with_environment({key[1:]: value})
        tail = overridden(self.family.style, self.words[self.begin :], key, value)
        return dataclasses.replace(self, words=(*self.words[: self.begin], *tail))

    def _following(self, changes: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are multiplied by as much as one of `changes`."""
        found: dict[str, str] = {}
        for key, followers in self.family.follows.items():
            before = self.setting(key)
            if key not in changes or before in (None, *NONE):
                continue
            factor = float(changes[key]) / float(str(before))
            for name in followers:
                below = [item for item in self.values if item.startswith(name[:-1])] if name.endswith(".*") else [name]
                for item in below:
                    old = self.setting(item)
                    if item not in (key, *changes) and old not in (None, *NONE):
                        found[item] = _scaled(item, str(old), factor)
        return found

    def with_environment(self, changes: Mapping[str, str]) -> Command:
        """The command with variables set; where `env NAME=VALUE` among its words sets one, there."""
        words = list(self.words)
        for name, at in self.target.variables.items():
            if name in changes:
                words[at] = f"{name}={changes[name]}"
        rest = {name: value for name, value in changes.items() if name not in self.target.variables}
        return dataclasses.replace(self, words=tuple(words), environment={**self.environment, **rest})

    @property
    def output(self) -> Path:
        """The absolute folder that upstream writes this run to. Raises UnknownCommand where it cannot be known."""
        return outputs.output_of(self)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Patterns of files with numbers, relative to `output`; those beside it begin with `..`."""
        at = os.path.relpath(relative(self.variable("WANDB_DIR") or ".", self.folder), self.output)
        return tuple(os.path.normpath(pattern.replace("{wandb}", at)) for pattern in self.family.metrics)

    @property
    def python(self) -> str:
        """The interpreter that runs it. Raises UnknownCommand where the program or its environment is not there."""
        asked = {name: self.variable(name) for name in ENVIRONMENTS}
        word = self.target.interpreter
        bins = [] if "/" in word else bins_of(self.target, self.folder, asked)
        return interpreter_of(word, self.folder, os.pathsep.join([*bins, self.variable("PATH") or os.defpath]))

    @property
    def restores(self) -> str:
        """What a resume of this very command restores: the family's, less where its settings leave something out."""
        family = self.family
        if any(true(self.setting(key)) != true(value) for key, value in family.needs.items()):
            return "nothing"
        if family.weights_only and family.restores == "all" and true(self.setting(family.weights_only)):
            return "weights"
        return family.restores

    @property
    def offset(self) -> int:
        """The step of the whole run that upstream counts as 0 in this command; 0 but for a run that goes on anew."""
        return resume.offset_of(self)

    def resumable(self) -> Command:
        """The command as it has to be started so that it can be resumed."""
        return self.with_settings(self.family.resumable)

    def resumed(self, checkpoint: Checkpoint) -> Command:
        """The command that goes on from `checkpoint`. Raises UnknownCommand where it cannot."""
        return resume.resumed(self, checkpoint)

    def shown(self) -> str:
        """As one would type it, with the variables that are added; without tokens and passwords."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join([*masked(variables), *masked(self.words)])

    @property
    def digest(self) -> str:
        """Tells this command from others: of its words and where they are run."""
        return hashlib.sha256(json.dumps([self.words, str(self.folder)]).encode()).hexdigest()


def recognise(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], known: Sequence[Family]
) -> Command:  # fmt: skip
    """The command that `words`, run in `folder`, are; `environment` is only what is added to the process's own.

    Raises UnknownCommand naming what is known and what to do.
    """
    folder = Path(os.path.abspath(folder))
    if words and ASSIGNMENT.fullmatch(words[0]):
        words = ["env", *words]  # NAME=VALUE before a command, as a shell takes it
    target = target_of(words, folder)
    for family in known:
        if family.runs(target, tuple(words[target.begin :])):
            command = Command(tuple(words), folder, dict(environment), family, family.begin(target))
            _ = command.values  # a configuration that cannot be read is said now
            return command
    names = "; ".join(f"{family.name} ({_called(family)})" for family in known)
    shell = (
        " Give the command that the script runs, not the script: a remedy changes the command's own words."
        if target.name in ("bash", "sh", "zsh")
        else ""
    )
    raise UnknownCommand(
        f"{shlex.join(words)} runs {target.name}, which is none of: {names}.{shell} A trainer of your own can be "
        "described in a file like runners/supervise/upstreams.toml: --upstreams FILE"
    )


def _called(family: Family) -> str:
    match = family.match
    return next(iter((*match.get("commands", ()), *match.get("scripts", ()), *match.get("modules", ()))), "nothing")


def _scaled(key: str, old: str, factor: float) -> str:
    new = float(old) * factor
    if "." in old or "e" in old.lower():
        return text(new)
    if new != int(new):
        raise UnknownCommand(f"{key} is {old}, which cannot be multiplied by {factor:g}: choose another batch")
    return str(int(new))
