"""Settings on a command line and in its configuration file, read and overridden in each upstream's own syntax."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from runners.supervise.launchers import UnknownCommand

FILES = (".yaml", ".yml", ".json")
PAIR = re.compile(r"(\+{0,2})([\w.@/-]+)=(.*)", re.DOTALL)
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
NONE = ("", "null", "None", "~")


def in_pairs(style: str, words: Sequence[str]) -> bool:
    """Whether overrides are `key=value`: hydra's, and huggingface's behind a file."""
    return style == "hydra" or (style == "huggingface" and bool(words) and words[0].endswith(FILES))


def plain(key: str) -> str:
    """A key as it is compared: argparse takes dashes for underscores."""
    return key.replace("-", "_")


def on_line(style: str, words: Sequence[str]) -> dict[str, str]:
    """The settings among `words`, which begin behind the script; the last one of a name counts. "" where none is."""
    found: dict[str, str] = {}
    if in_pairs(style, words):
        for word in words:
            if pair := PAIR.fullmatch(word):
                found[plain(pair[2])] = unquoted(pair[3])
        return found
    for at, word in enumerate(words):
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            follows = at + 1 < len(words) and not words[at + 1].startswith("--")
            found[plain(name)] = value if sign else words[at + 1] if follows else "true"
    return found


def in_file(style: str, words: Sequence[str], folder: Path, option: str, default: str) -> dict[str, str]:
    """The settings of the command's configuration file, nested keys joined by dots.

    `option` names it (the first word does in style huggingface), `default` is taken without one.

    Raises UnknownCommand where it is not there or does not parse.
    """
    if style == "huggingface":
        name = words[0] if in_pairs(style, words) else ""
    else:
        name = on_line(style, words).get(option, default) if option else ""
    if not name:
        return {}
    path = folder / name
    try:
        # Texts as they stand: upstreams' own libraries decide which of them are numbers.
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnknownCommand(f"the command's configuration {path} cannot be read: {error}") from None
    if not isinstance(read, dict):
        raise UnknownCommand(f"the command's configuration {path} holds no settings")
    return dict(_flat(read, ""))


def _flat(read: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in read.items():
        name = plain(f"{prefix}{key}")
        if isinstance(value, dict):
            found += _flat(value, f"{name}.")
        else:
            found.append((name, value if isinstance(value, str) else json.dumps(value)))
    return found


def resolved(value: str, settings: Mapping[str, str], variables: Mapping[str, str], depth: int = 10) -> str:
    """`value` with OmegaConf's references to other settings and to environment variables filled in.

    Raises UnknownCommand on any other reference, and on a circle.
    """

    def filled(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name.startswith("oc.env:"):
            variable, _, default = name.removeprefix("oc.env:").partition(",")
            return variables.get(variable.strip(), default.strip())
        if plain(name) in settings and depth:
            return resolved(settings[plain(name)], settings, variables, depth - 1)
        raise UnknownCommand(f"{match[0]} in the configuration cannot be resolved here: write the value itself")

    while REFERENCE.search(value):
        value = REFERENCE.sub(filled, value)
    return value


def overridden(style: str, words: Sequence[str], key: str, value: str) -> tuple[str, ...]:
    """`words` with one setting changed where it stands last, or added at the end."""
    changed = list(words)
    if in_pairs(style, words):
        for at in reversed(range(len(words))):
            if (pair := PAIR.fullmatch(words[at])) and plain(pair[2]) == plain(key):
                changed[at] = f"{pair[1]}{pair[2]}={quoted(style, value)}"
                return tuple(changed)
        return (*changed, f"{key}={quoted(style, value)}")
    for at in reversed(range(len(words))):
        name, sign, _ = words[at].partition("=")
        if not words[at].startswith("--") or plain(name[2:]) != plain(key):
            continue
        if sign:
            changed[at] = f"{name}={value}"
        elif at + 1 < len(words) and not words[at + 1].startswith("--"):
            changed[at + 1] = value
        else:
            changed.insert(at + 1, value)
        return tuple(changed)
    return (*changed, f"--{key}", value)


def quoted(style: str, value: str) -> str:
    """A text that hydra's grammar, or YAML, reads as this text."""
    if style == "hydra":
        return value if re.fullmatch(r"[\w./+:@%-]*", value) else "'" + value.replace("'", "\\'") + "'"
    try:
        same = yaml.load(value, Loader=yaml.BaseLoader) == value
    except yaml.YAMLError:
        same = False
    return value if same or not value else json.dumps(value)


def unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def true(value: str | None) -> bool:
    """Whether upstreams take a text for true."""
    return (value or "").lower() in ("true", "1", "yes", "on", "t", "y")


def relative(path: str, folder: Path) -> Path:
    """An absolute path, normalised without following links."""
    return Path(os.path.normpath(folder / Path(path).expanduser()))
