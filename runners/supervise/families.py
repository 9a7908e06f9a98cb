"""The table of native commands, upstreams.toml, and a user's own file of the same form."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.supervise.launchers import Target, ends_with
from runners.supervise.tables import BadTable, read_toml

TABLE = Path(__file__).with_name("upstreams.toml")
STYLES = ("huggingface", "draccus", "omegaconf", "hydra", "flags")
RESTORES = ("all", "weights", "nothing")
COMPOSED = ("", "openvla_finetune", "openvla_train", "starvla", "libero")
ROLES = (
    *("batch", "accumulation", "rate", "steps", "save_every", "keep", "output", "workers", "timeout", "eval_every"),
    *("seed", "rank", "schedule"),
)
FILLED = ("checkpoint", "step", "remaining", "link", "note")
"""What resume.py fills in, beside the groups of `checkpoints`."""
MATCHED_BY = ("commands", "modules", "scripts", "text")


@dataclass(frozen=True)
class Family:
    """A row of upstreams.toml, whose head explains the fields."""

    name: str
    match: Mapping[str, Any]
    style: str
    settings: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    checkpoints: str = ""
    complete: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    resume: Mapping[str, str] = field(default_factory=dict)
    restores: str = "nothing"
    config: str = ""
    config_default: str = ""
    output: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Any] = field(default_factory=dict)
    follows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pin: str = ""
    resumable: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    weights_only: str = ""
    weights: tuple[str, ...] = ()
    rescale: tuple[str, ...] = ()
    batch_in: str = ""
    batch_found: str = ""
    takes_latest: bool = False

    def runs(self, target: Target, arguments: tuple[str, ...]) -> bool:
        """Whether a command's target is this family's."""
        if target.kind != "script":
            named = self.match.get(f"{target.kind}s", ())
            return any((target.name, *arguments)[: len(words)] == tuple(words) for words in map(str.split, named))
        if not any(ends_with(target.name, end) for end in self.match.get("scripts", ())):
            return False
        text, script = self.match.get("text", ""), Path(target.name)
        return not text or (script.is_file() and text in script.read_text(encoding="utf-8", errors="replace"))

    def begin(self, target: Target) -> int:
        """Index of the first word with settings: behind `train` in `llamafactory-cli train`."""
        named = [words.split() for words in self.match.get(f"{target.kind}s", ())]
        return target.begin + max((len(words) - 1 for words in named if words[0] == target.name), default=0)


def families(extra: Path | None = None) -> tuple[Family, ...]:
    """The table's rows, those of the user's own file first.

    Raises BadTable naming file, row and key.
    """
    return tuple(row for path in ([extra] if extra else []) + [TABLE] for row in _rows(path))


def _rows(path: Path) -> list[Family]:
    rows = read_toml(path).get("families")
    if not isinstance(rows, list) or not rows:
        raise BadTable(f"{path} has no [[families]]: {TABLE} shows the form")
    return [_family(path, row) for row in rows]


def _family(path: Path, row: Mapping[str, Any]) -> Family:
    if not isinstance(row, dict):
        raise BadTable(f"{path}: families has {row!r}, no table")
    where = f"{path}, family {row.get('name', 'without a name')!r}"
    fields = {item.name for item in dataclasses.fields(Family)}
    _known(where, "key", set(row), fields)
    for needed in ("name", "match", "style"):
        if not row.get(needed):
            raise BadTable(f"{where}: {needed} is missing")
    _types(where, row)
    _known(where, "style", {row["style"]}, STYLES)
    _known(where, "restores", {row.get("restores", "nothing")}, RESTORES)
    _known(where, "output", {row.get("output", "")}, COMPOSED)
    _known(where, "key of match", set(row["match"]), MATCHED_BY)
    _known(where, "role", {*row.get("settings", {}), *row.get("defaults", {})}, ROLES)
    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    for key in ("defaults", "keys"):
        made[key] = {name: text(value) for name, value in row.get(key, {}).items()}
    family = Family(**made)
    if family.restores != "nothing" and not (family.checkpoints and family.resume):
        raise BadTable(f"{where}: restores {family.restores!r} needs checkpoints and resume")
    try:
        groups = re.compile(family.checkpoints).groupindex
    except re.error as error:
        raise BadTable(f"{where}: checkpoints is no regular expression: {error}") from None
    if family.checkpoints and "step" not in groups:
        raise BadTable(f"{where}: checkpoints has no (?P<step>...)")
    for key, value in family.resume.items():
        try:
            named = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
        except ValueError as error:
            raise BadTable(f"{where}: resume: {key} is {value!r}: {error}") from None
        _known(where, f"name in resume.{key}:", named, {*FILLED, *groups})
    return family


def _types(where: str, row: Mapping[str, Any]) -> None:
    """Raises BadTable where a key has a value of another type: it would be found out hours later, at a resume."""
    for item in dataclasses.fields(Family):
        if item.name not in row:
            continue
        value, kind = row[item.name], str(item.type)
        if kind.startswith("Mapping"):
            _table(where, item.name, value)
        elif kind.startswith("tuple"):
            _texts(f"{where}: {item.name}", value)
        elif not isinstance(value, bool if kind == "bool" else str):
            raise BadTable(
                f"{where}: {item.name} is {value!r}, {'neither true nor false' if kind == 'bool' else 'no text'}"
            )


def _table(where: str, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise BadTable(f"{where}: {key} is {value!r}, no table")
    for name, entry in value.items():
        here = f"{where}: {key}.{name}"
        if (key, name) == ("match", "text") or key in ("settings", "resume", "resumable", "needs"):
            if not isinstance(entry, str):
                raise BadTable(f"{here} is {entry!r}, no text")
        elif key in ("match", "follows"):
            _texts(here, entry)
        elif key in ("defaults", "keys") and not isinstance(entry, (str, int, float)):
            raise BadTable(f"{here} is {entry!r}, neither a text nor a number")
        elif key == "variants" and not isinstance(entry, str if name == "key" else dict):
            raise BadTable(f"{here} is {entry!r}, no {'text' if name == 'key' else 'table'}")


def _texts(where: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise BadTable(f"{where} is {value!r}, no list of texts: put it into [ ]")


def _known(where: str, what: str, found: set[str], known: Any) -> None:
    if odd := sorted(found - set(known)):
        raise BadTable(f"{where}: unknown {what} {', '.join(map(repr, odd))}; known: {', '.join(sorted(known))}")


def text(value: Any) -> str:
    """A value as upstreams' own files and flags have it; a float keeps a dot, which YAML needs to see a number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, sign, exponent = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa or not sign else '.0'}{sign}{exponent}"
    return str(value)
