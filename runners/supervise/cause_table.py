"""The table of causes: what a log says when a run has died, and what helps. `causes.toml` is the table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.supervise.tables import BadTable, read_toml

TABLE = Path(__file__).with_name("causes.toml")
CHANGES = ("no", "rounding", "yes")
NEEDED = {"name", "says", "says_zh", "patterns", "remedies", "advice", "advice_zh", "log", "changes_result"}
KEYS = NEEDED | {"exit", "follows", "signs", "good", "source"}


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
    changes_result: str = "no"
    source: str = ""


def table(extra: Path | None = None) -> tuple[Cause, ...]:
    """The rows of causes.toml in order, those of the file `extra` first; a row of a name it has replaces ours.

    Raises BadTable naming file, row and key.
    """
    own = list(_rows(extra)) if extra is not None else []
    names = {cause.name for cause in own}
    return (*own, *(cause for cause in _rows(TABLE) if cause.name not in names))


def _rows(path: Path) -> Iterator[Cause]:
    content = read_toml(path)
    if not isinstance(content.get("cause"), list):
        raise BadTable(f"{path}: it has no [[cause]]")
    for number, row in enumerate(content["cause"], 1):
        where = f"{path}, row {row.get('name', number)}"
        if unknown := set(row) - KEYS:
            raise BadTable(f"{where}: unknown {', '.join(sorted(unknown))}; a row has {', '.join(sorted(KEYS))}")
        if missing := NEEDED - set(row):
            raise BadTable(f"{where}: it lacks {', '.join(sorted(missing))}")
        if row["changes_result"] not in CHANGES:
            raise BadTable(f"{where}: changes_result is {row['changes_result']!r}, not one of {', '.join(CHANGES)}")
        try:
            remedies = tuple(
                Remedy(each["name"], each["limit"], {key: each[key] for key in each.keys() - {"name", "limit"}})
                for each in row["remedies"]
            )
        except (KeyError, TypeError) as error:
            raise BadTable(f"{where}: remedies: each is a table with name and limit ({error!r})") from None
        compiled = {key: _compiled(row.get(key, ()), f"{where}: {key}") for key in ("patterns", "signs", "good")}
        yield Cause(**{**row, **compiled, "remedies": remedies, "exit": tuple(row.get("exit", ()))})


def _compiled(patterns: Sequence[str], where: str) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(pattern, re.MULTILINE) for pattern in patterns)
    except (re.error, TypeError) as error:
        raise BadTable(f"{where}: no regular expression: {error}") from None
