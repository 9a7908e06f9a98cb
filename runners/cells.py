"""Cells of a terminal: how wide a text is there, and what fits. Wide, ambiguous and combining characters are Unicode's
(UAX 11).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import TextIO

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")
EAST_ASIAN = ("zh", "ja", "ko")
"""Locales in which PuTTY, Xshell, mintty and others give two cells to characters of ambiguous width, as ━ · › …"""
NO_CELL = ("Mn", "Me", "Cf")


def ambiguous_are_wide(lang: str, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a character of ambiguous width may take two cells: by the language shown, or by the locale."""
    env = os.environ if environment is None else environment
    locale = next((env[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if env.get(name)), "")
    return lang == "zh" or locale.startswith(EAST_ASIAN)


@lru_cache(4096)
def cell(letter: str, wide: bool = False) -> int:
    """Cells that one character takes; `wide`: an ambiguous one takes two."""
    if unicodedata.category(letter) in NO_CELL:
        return 0
    width = unicodedata.east_asian_width(letter)
    return 2 if width in ("W", "F") or (wide and width == "A") else 1


def cells(text: str, wide: bool = False) -> int:
    """Cells that `text` takes."""
    return sum(cell(letter, wide) for letter in text)


def cut(text: str, width: int, end: str = "…", wide: bool = False) -> str:
    """`text` in at most `width` cells, `end` (one cell) in place of what was cut off."""
    if cells(text, wide) <= width:
        return text
    kept, room = "", width - 1
    for letter in text:
        room -= cell(letter, wide)
        if room < 0:
            break
        kept += letter
    return kept.rstrip() + end


def wrapped(fields: list[str], between: str, width: int, wide: bool = False) -> list[str]:
    """`fields` on as few lines as they fit on, none of them broken."""
    lines: list[str] = []
    for field in fields:
        if lines and cells(lines[-1] + between + field, wide) <= width:
            lines[-1] += between + field
        else:
            lines.append(field)
    return lines


def encodable(text: str, stream: TextIO) -> bool:
    """Whether `stream` can take `text` in its encoding."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """`text` without escape sequences and control characters, carriage returns as a terminal would leave them."""
    shown = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return "\n".join(ESCAPES.sub("", line) for line in shown).expandtabs(4)
