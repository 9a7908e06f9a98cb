"""The lock as text: values of one table replaced, a pack or a table added; every other byte stays.

What comes out is read again before anybody writes it: an edit that the lock's own parser refuses, or that says anything
but what was asked for, is an error and no lock.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graft.errors import BadInput
from graft.lock import FILE, Lock, Upstream, parse_toml

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_STRING = rb"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'"
_KEYS = ("url", "ref", "commit", "tree", "license", "path", "python", "packs")


def with_values(text: bytes, root: Path, name: str, values: Mapping[str, str]) -> bytes:
    """The lock with other texts under some keys of one upstream, each in the quotes that it had.

    Raises:
        BadInput: the table or a key is not written on a line of its own, or the lock would not be sound.
    """
    new = text
    for key, value in values.items():
        new = _in_table(new, name, key, _STRING, lambda old, value=value: _quoted(value, old[:1]))  # type: ignore[misc]

    def change(data: dict[str, Any]) -> None:
        data["upstream"][name].update(values)

    return _proven(text, new, root, change)


def with_pack(text: bytes, root: Path, name: str, pack: str) -> bytes:
    """The lock with one more pack at the end of an upstream's list; the list's layout and comments stay.

    Raises:
        BadInput: as `with_values`.
    """
    array = rb"\[(?:[^\]\"'#]|" + _STRING + rb"|#[^\n]*\n)*\]"

    def change(data: dict[str, Any]) -> None:
        data["upstream"][name]["packs"].append(pack)

    return _proven(text, _in_table(text, name, "packs", array, lambda old: _appended(old, pack)), root, change)


def with_table(text: bytes, root: Path, upstream: Upstream) -> bytes:
    """The lock with one more upstream at its end.

    Raises:
        BadInput: the lock would not be sound, as with a name or an address that it does not take.
    """
    values = {key: getattr(upstream, key) for key in _KEYS}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    head = f"[upstream.{_quoted_key(upstream.name)}]"
    new = text.rstrip(b"\n") + "\n".join(["\n", head, *lines, ""]).encode()

    def change(data: dict[str, Any]) -> None:
        data["upstream"][upstream.name] = {**values, "packs": list(upstream.packs)}

    return _proven(text, new, root, change)


def table_of(text: bytes, name: str) -> tuple[int, int]:
    """Where the lines below ``[upstream.NAME]`` begin and end.

    Raises:
        BadInput: there is no such line; a comment that names the table is none.
    """
    spelled = [f'"{name}"', f"'{name}'", *([name] if _BARE.match(name) else [])]
    either = "|".join(map(re.escape, spelled)).encode()
    head = rb"^[ \t]*\[[ \t]*upstream[ \t]*\.[ \t]*(?:" + either + rb")[ \t]*\][^\n]*(?:\n|\Z)"
    found = re.search(head, text, re.MULTILINE)
    if found is None:
        table = f"[upstream.{_quoted_key(name)}]"
        raise BadInput(f"no line {table}", where=FILE, remedy=f"write {table} and its keys below")
    stop = re.compile(rb"^[ \t]*\[", re.MULTILINE).search(text, found.end())
    return found.end(), stop.start() if stop else len(text)


def _in_table(text: bytes, name: str, key: str, value: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The text with what stands after ``key =`` in one table, of the form ``value``, changed."""
    start, end = table_of(text, name)
    line = re.compile(rb"^([ \t]*" + key.encode() + rb"[ \t]*=[ \t]*)(" + value + rb")", re.MULTILINE)
    found = line.search(text, start, end)
    if found is None:
        raise _unreadable(f"{FILE} [upstream.{name}]", key)
    return text[: found.start(2)] + change(found[2]) + text[found.end(2) :]


def _appended(array: bytes, pack: str) -> bytes:
    strings = [found for found in re.finditer(_STRING + rb"|#[^\n]*", array) if not found[0].startswith(b"#")]
    at, text = (strings[-1].end(), b", ") if strings else (1, b"")
    return array[:at] + text + json.dumps(pack).encode() + array[at:]


def _quoted(value: str, quote: bytes) -> bytes:
    if quote == b"'" and "'" not in value:
        return f"'{value}'".encode()
    return json.dumps(value, ensure_ascii=False).encode()


def _quoted_key(name: str) -> str:
    """A name as a key; one with a dot must be quoted, or it would be a table in a table."""
    return name if _BARE.match(name) else json.dumps(name)


def _proven(old: bytes, new: bytes, root: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """``new``, where it is a sound lock that says what ``old`` does but for one change."""
    file = root / FILE
    wanted = copy.deepcopy(parse_toml(old, file))
    change(wanted)
    if parse_toml(new, file) != wanted:
        raise _unreadable(FILE, "what is to change")
    Lock.of(new, file)
    return new


def _unreadable(where: str, key: str) -> BadInput:
    return BadInput(
        f"{key} is not on a line of its own", where=where, remedy='write it as in ref = "main", or packs = ["a", "b"]'
    )
