"""What a command really runs: the script, module or program behind torchrun, accelerate, srun, env and the like."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from runners.program_python import PYTHON, NoPython, python_of
from runners.supervise.tables import read_toml

TABLE = Path(__file__).with_name("launchers.toml")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
SETS = ("flags", "module", "program", "values", "pairs", "environment")
WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


class UnknownCommand(Exception):
    """A command that cannot be supervised as it stands; the message says what is known and what to do."""


@dataclass(frozen=True)
class Launcher:
    """A row of launchers.toml, whose head explains the fields."""

    name: str
    runs: str
    commands: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    then: str = ""
    positional: int = 0
    flags: frozenset[str] = frozenset()
    module: frozenset[str] = frozenset()
    program: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    pairs: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()
    assignments: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Target:
    """What is run: `kind` is "script", "module" or "command", `name` its path, dotted name or program.

    `begin` is the index of its first argument. `interpreter` is the word of the Python that runs it, or of a console
    script whose first line names it. `variables` are those that `env` sets, with the index of their word.
    """

    kind: str
    name: str
    begin: int
    interpreter: str
    variables: Mapping[str, int] = field(default_factory=dict)
    launchers: tuple[tuple[str, int], ...] = ()
    """Each launcher's name and the index of its first option."""
    within: tuple[str, str] = ("", "")
    """A launcher that has environments of its own (conda, uv), and the name or folder that it was given."""


@cache
def launchers() -> tuple[Launcher, ...]:
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in read_toml(TABLE)["launchers"]}
    made = []
    for row in rows.values():
        full = {**rows.get(row.get("like", ""), {}), "then": "", **row}
        full.pop("like", None)
        sets = {key: frozenset(map(_plain, full.get(key, ()))) for key in SETS}
        lists = {key: tuple(row.get(key, ())) for key in ("commands", "modules", "scripts")}
        made.append(Launcher(**{**full, **lists, **sets}))
    return tuple(made)


def target_of(words: Sequence[str], folder: Path) -> Target:
    """What `words`, run in `folder`, run in the end. Raises UnknownCommand where no script or program is named."""
    return _Walk(words, folder).program(0)


class _Walk:
    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.words, self.folder = tuple(words), folder
        self.interpreter = ""
        self.variables: dict[str, int] = {}
        self.passed: list[tuple[str, int]] = []
        self.within = ("", "")

    def program(self, at: int) -> Target:
        """The word at `at` is a program."""
        word = self._word(at)
        name = Path(word).name
        if PYTHON.fullmatch(name):
            self.interpreter = word
            return self._python(at + 1)
        if name.endswith(".py"):
            # uv runs a script by its project's Python, whatever the script's first line says.
            self.interpreter = self.interpreter or ("python" if self.within[0] == "uv" else word)
            return self._script(at)
        for launcher in launchers():
            if name in launcher.commands and self._follows(launcher, at + 1):
                if launcher.runs == "python":
                    self.interpreter = self.interpreter or word
                return self._launcher(launcher, at + 1)
        return self._end("command", name, at + 1, interpreter=self.interpreter or word)

    def _python(self, at: int) -> Target:
        """Python's own options begin at `at`."""
        while self._word(at).startswith("-"):
            word = self._word(at)
            if word.startswith("-m"):
                return self._module(word[2:] or self._word(at + 1), at + (1 if word[2:] else 2))
            if word in ("-c", "-"):
                raise UnknownCommand(f"{self._shown()} runs code that is no file: put it into a script")
            at += 2 if word in WITH_VALUE else 1
        return self._script(at)

    def _script(self, at: int) -> Target:
        word = self._word(at)
        path = os.path.normpath(self.folder / word)
        for launcher in launchers():
            if any(ends_with(path, end) for end in launcher.scripts):
                return self._launcher(launcher, at + 1)
            if Path(word).name in launcher.commands and self._follows(launcher, at + 1):
                return self._launcher(launcher, at + 1)
        if word.endswith(".py"):
            return self._end("script", path, at + 1)
        return self._end("command", Path(word).name, at + 1)

    def _module(self, name: str, at: int) -> Target:
        for launcher in launchers():
            if name in launcher.modules and self._follows(launcher, at):
                return self._launcher(launcher, at)
        return self._end("module", name, at)

    def _launcher(self, launcher: Launcher, at: int) -> Target:
        if launcher.refused:
            raise UnknownCommand(f"{self._shown()}: {launcher.refused}")
        at += bool(launcher.then)
        if launcher.environment:
            self.within = (launcher.name, "")
        self.passed.append((launcher.name, at))
        runs = launcher.runs
        while at < len(self.words):
            word = self.words[at]
            name, sign, value = word.partition("=")
            if _plain(name) in launcher.environment:
                self.within = (launcher.name, value if sign else self._word(at + 1))
            if launcher.assignments and (assigned := ASSIGNMENT.fullmatch(word)):
                self.variables[assigned[1]] = at
            elif word == "--":
                at += 1
                break
            elif not word.startswith("-"):
                break
            elif _plain(name) in launcher.module:
                runs = "module"
            elif _plain(name) in launcher.program:
                runs = "program"
            elif _plain(name) in launcher.pairs:
                at += 2
            elif _plain(name) in launcher.values:
                at += not sign
            elif not (sign or _plain(name) in launcher.flags or (name[1:2] != "-" and len(name) > 2)):
                at += 1
            at += 1
        at += launcher.positional
        if runs == "module":
            self.interpreter = self.interpreter or "python"
            return self._module(self._word(at), at + 1)
        return self.program(at) if runs == "program" else self._script(at)

    def _follows(self, launcher: Launcher, at: int) -> bool:
        return not launcher.then or (at < len(self.words) and self.words[at] == launcher.then)

    def _end(self, kind: str, name: str, begin: int, interpreter: str = "") -> Target:
        return Target(
            kind, name, begin, interpreter or self.interpreter, self.variables, tuple(self.passed), self.within
        )

    def _word(self, at: int) -> str:
        if at < len(self.words):
            return self.words[at]
        raise UnknownCommand(f"{self._shown()} names no script: give the whole command that trains or evaluates")

    def _shown(self) -> str:
        return " ".join(self.words) or "an empty command"


def ends_with(path: str, end: str) -> bool:
    """Whether a path's last parts are those of `end`."""
    parts = Path(end).parts
    return Path(path).parts[-len(parts) :] == parts


def interpreter_of(word: str, folder: Path, search: str | None) -> str:
    """The Python behind a word: itself, or what a console script's first lines name. `search` is a PATH.

    Raises UnknownCommand where the program is not there or names none.
    """
    try:
        return python_of(word, folder, search)
    except NoPython as error:
        raise UnknownCommand(str(error)) from None


def _plain(name: str) -> str:
    return name if len(name) < 2 else name[0] + name[1:].replace("_", "-")
