"""The table of causes: what a log says when a run has died, and what helps. `causes.toml` is the table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.supervise.tables import BadTable, read_toml

TABLE = Path(__file__).with_name("causes.toml")
CHANGES = ("no", "rounding", "yes")
NEEDED = {"name", "says", "says_zh", "patterns", "remedies", "advice", "advice_zh", "log", "changes_result"}
KEYS = NEEDED | {"exit", "follows", "signs", "good", "hung_at", "source"}
TEXTS = ("name", "says", "says_zh", "advice", "advice_zh", "log", "changes_result", "source")
EXPRESSIONS = ("patterns", "signs", "good", "hung_at")
STATES = ("host_memory", "hung")
NUMBER = (int, float)
VALUES: Mapping[str, tuple[type, ...]] = {
    **{"seconds": NUMBER, "factor": NUMBER},
    **{"environment": (dict,), "packages": (dict,)},
}
"""Values that remedies take, beside `name` and `limit`."""


@dataclass(frozen=True)
class Remedy:
    """A remedy by its name in `remedies.py`; `limit`: how often at most, 0 for as often as it is possible."""

    name: str
    limit: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Cause:
    """A row of causes.toml, whose head explains the fields."""

    name: str
    says: str
    says_zh: str
    patterns: tuple[re.Pattern[str], ...]
    remedies: tuple[Remedy, ...]
    advice: str
    advice_zh: str
    log: str
    exit: tuple[int | str, ...] = ()
    follows: bool = False
    signs: tuple[re.Pattern[str], ...] = ()
    good: tuple[re.Pattern[str], ...] = ()
    hung_at: tuple[re.Pattern[str], ...] = ()
    changes_result: str = "no"
    source: str = ""


def table(extra: Path | None = None, remedies: Collection[str] | None = None) -> tuple[Cause, ...]:
    """The rows of causes.toml in order, those of the file `extra` first; a row of a name it has replaces ours.

    `remedies` are the names that there are; None takes any. Raises BadTable naming file, row and key.
    """
    own = list(_rows(extra, remedies)) if extra is not None else []
    names = {cause.name for cause in own}
    return (*own, *(cause for cause in _rows(TABLE, remedies) if cause.name not in names))


def _rows(path: Path, known: Collection[str] | None) -> Iterator[Cause]:
    content = read_toml(path)
    if not isinstance(content.get("cause"), list) or not all(isinstance(row, dict) for row in content["cause"]):
        raise BadTable(f"{path}: it has no [[cause]]")
    seen: set[str] = set()
    for number, row in enumerate(content["cause"], 1):
        where = f"{path}, row {row.get('name', number)}"
        _check(row, where)
        if row["name"] in seen:
            raise BadTable(f"{where}: name: another row has it")
        seen.add(row["name"])
        remedies = tuple(_remedy(each, f"{where}: remedies", known) for each in row["remedies"])
        compiled = {key: _compiled(row.get(key, ()), f"{where}: {key}") for key in EXPRESSIONS}
        yield Cause(**{**row, **compiled, "remedies": remedies, "exit": tuple(row.get("exit", ()))})


def _check(row: Mapping[str, Any], where: str) -> None:
    """Raises BadTable where a key is unknown, is missing or has a value of another type."""
    if unknown := set(row) - KEYS:
        raise BadTable(f"{where}: unknown {', '.join(sorted(unknown))}; a row has {', '.join(sorted(KEYS))}")
    if missing := NEEDED - set(row):
        raise BadTable(f"{where}: it lacks {', '.join(sorted(missing))}")
    for key in TEXTS:
        if not isinstance(row.get(key, ""), str):
            raise BadTable(f"{where}: {key} is {row[key]!r}, no text")
    for key in (*EXPRESSIONS, "exit", "remedies"):
        if not isinstance(row.get(key, []), list):
            raise BadTable(f"{where}: {key} is {row[key]!r}, no list: put it into [ ]")
    if not isinstance(row.get("follows", False), bool):
        raise BadTable(f"{where}: follows is {row['follows']!r}, neither true nor false")
    if row["changes_result"] not in CHANGES:
        raise BadTable(f"{where}: changes_result is {row['changes_result']!r}, not one of {', '.join(CHANGES)}")
    for state in row.get("exit", ()):
        if type(state) is not int and state not in STATES:
            raise BadTable(f"{where}: exit has {state!r}, neither a number nor one of {', '.join(STATES)}")


def _remedy(each: Any, where: str, known: Collection[str] | None) -> Remedy:
    if not isinstance(each, dict) or not {"name", "limit"} <= set(each):
        raise BadTable(f"{where}: {each!r} is no table with name and limit")
    name, limit = each["name"], each["limit"]
    if not isinstance(name, str) or (known is not None and name not in known):
        raise BadTable(f"{where}: name is {name!r}, not one of {', '.join(sorted(known or ()))}")
    if type(limit) is not int or limit < 0:
        raise BadTable(f"{where}: {name}: limit is {limit!r}, no number of times")
    values = {key: each[key] for key in each.keys() - {"name", "limit"}}
    for key, value in values.items():
        if key not in VALUES:
            raise BadTable(f"{where}: {name}: unknown {key}; known: {', '.join(VALUES)}")
        if not isinstance(value, VALUES[key]) or isinstance(value, bool):
            raise BadTable(f"{where}: {name}: {key} is {value!r}, no {'number' if VALUES[key] is NUMBER else 'table'}")
        if isinstance(value, dict) and not all(isinstance(item, str) for item in value.values()):
            raise BadTable(f"{where}: {name}: {key} has a value that is no text: {value!r}")
    return Remedy(name, limit, values)


def _compiled(patterns: Sequence[str], where: str) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(pattern, re.MULTILINE) for pattern in patterns)
    except (re.error, TypeError) as error:
        raise BadTable(f"{where}: no regular expression: {error}") from None
