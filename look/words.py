"""The language of reports: English labels are the keys, `look/zh/*.toml` holds the Chinese ones.

A label is what a reader reads: a title, a heading, a name of an axis, a head of a table, a state, a sentence. File
names, options, code, numbers and what a command printed stay as they are.

`--lang` and $GRAFT_LANG hold for pages of reports, charts, the live view of a run, and what `supervise --dry-run` and
`supervise --list` explain. `--help`, errors, `python -m runners places`, the commands that a pipeline's `--dry-run`
prints, and files for programs (JSON, CSV, logs) are English always. A catalogue has one line a label,

    "learning rate" = "学习率"
    "for {count} training runs" = "共 {count} 次训练"

and for paragraphs, whose line breaks do not count,

    [[paragraph]]
    en = '''...'''
    zh = '''...'''
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LANGUAGES = ("en", "zh")
CATALOGUES = Path(__file__).resolve().parent


class UnknownLabel(KeyError):
    """A label without a translation; the message names it and where to add it."""

    def __str__(self) -> str:
        return str(self.args[0])


def spoken(word: str) -> str:
    """The one of LANGUAGES that a locale or language tag (`zh_CN.UTF-8`, `zh-CN`) begins with, else `word` as it is."""
    tag = re.split(r"[-_.@]", word, maxsplit=1)[0].lower()
    return tag if tag in LANGUAGES else word


def language(word: str) -> str:
    """The one of LANGUAGES that `word` begins with. Raises argparse.ArgumentTypeError."""
    if (found := spoken(word)) not in LANGUAGES:
        raise argparse.ArgumentTypeError(f"{word!r} is not a language of reports: say {' or '.join(LANGUAGES)}")
    return found


def default_language(environment: Mapping[str, str] | None = None) -> str:
    """What $GRAFT_LANG says, also where that is no language; else `zh` in a Chinese locale, else `en`.

    The locale is the first set of LC_ALL, LC_MESSAGES and LANG.
    """
    env = os.environ if environment is None else environment
    if chosen := env.get("GRAFT_LANG"):
        return spoken(chosen)
    locale = next((env[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if env.get(name)), "")
    return "zh" if spoken(locale) == "zh" else "en"


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--lang`, in `options.lang`. A wrong $GRAFT_LANG ends in the parser's error, as a wrong option does."""
    parser.add_argument(
        "--lang",
        type=language,
        default=default_language(),
        metavar="|".join(LANGUAGES),
        help="language of the report; default $GRAFT_LANG, else zh in a Chinese locale, else en",
    )


class Words:
    """Labels in one language: `words("for {count} training runs", count=4)`.

    `lang` is one of LANGUAGES; anything else raises ValueError.
    """

    def __init__(self, lang: str = "en") -> None:
        if lang not in LANGUAGES:
            raise ValueError(f"{lang!r} is not a language of reports: say {' or '.join(LANGUAGES)}")
        self.lang = lang

    def __call__(self, label: str, **values: object) -> str:
        """`label` with `values` put in as `str.format` does; without `values` braces are characters like others.

        Raises UnknownLabel for one that the language's catalogue lacks.
        """
        text = one_line(label)
        if self.lang != "en":
            known = catalogue(self.lang)
            if text not in known:
                raise UnknownLabel(
                    f"no {self.lang} for the label {text!r}: add it to the report's file in look/{self.lang}/ "
                    f"({', '.join(path.name for path in files(self.lang))})"
                )
            text = known[text]
        return text.format(**values) if values else text

    def of(self, text: str) -> str:
        """What a program wrote, not a label: in this language where it is known, else as it is."""
        return text if self.lang == "en" else catalogue(self.lang).get(one_line(text), text)

    def joined(self, items: list[str] | tuple[str, ...]) -> str:
        """Items of a list, separated as the language does."""
        return {"en": ", ", "zh": "、"}[self.lang].join(items)


ENGLISH = Words()


def one_line(text: str) -> str:
    """`text` with every stretch of white space, line breaks too, as one blank: how labels are looked up."""
    return " ".join(text.split())


def files(lang: str) -> list[Path]:
    return sorted((CATALOGUES / lang).glob("*.toml"))


@cache
def catalogue(lang: str) -> dict[str, str]:
    """Every label of `lang` (not `en`) with its translation.

    Raises ValueError naming file and label where one is no text, or is translated in two ways.
    """
    found: dict[str, str] = {}
    for path in files(lang):
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
        # Between Chinese letters a line break would show as a blank.
        paragraphs = content.pop("paragraph", [])
        pairs = [(each["en"], "".join(map(str.strip, each[lang].splitlines()))) for each in paragraphs]
        for label, word in [*content.items(), *pairs]:
            key = one_line(label)
            if not isinstance(word, str) or found.get(key, word) != word:
                raise ValueError(f"{path}: {key!r} is {word!r} here, and {found.get(key, 'not a text')!r} before")
            found[key] = word
    return found
