"""The table of native commands, upstreams.toml, and a user's own file of the same form."""

from __future__ import annotations

import dataclasses
import re
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
    where = f"{path}, family {row.get('name', 'without a name')!r}"
    fields = {item.name for item in dataclasses.fields(Family)}
    _known(where, "key", set(row), fields)
    for needed in ("name", "match", "style"):
        if not row.get(needed):
            raise BadTable(f"{where}: {needed} is missing")
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
    return family


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
