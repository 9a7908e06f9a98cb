"""Tokens and passwords, which logs, decisions and reports must not show.

A secret is known by the name that it stands behind, by its form, and, once `learn` has seen it on the command line
or in the environment, by its value, wherever a command prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
SHORTEST = 8
"""Characters of a value that is hidden wherever it stands: `true` and `auto` are no secrets."""
_KIND = r"token|api[_-]?key|secret|password|passwd|access[_-]?key"
_NAME = rf"(?:[\w.-]*[_.-])?(?:{_KIND})"
_ASSIGNED = re.compile(rf"^(-{{0,2}}{_NAME}=)(.+)", re.IGNORECASE | re.DOTALL)
_OPTION = re.compile(rf"^--?{_NAME}$", re.IGNORECASE)
_VARIABLE = re.compile(rf"^{_NAME}(?:_ID)?$", re.IGNORECASE)
_KNOWN = re.compile(
    r"\b(?:(?:hf_|gh[pousr]_|glpat-)[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{16}\b)"
    r"|(?<=://)[^/@\s:]{1,256}:[^/@\s]{1,256}(?=@)"
)
"""Tokens by their form: of the hub of models, of hosts of code, of language models' services, of a cloud; and a name
with a password in an address."""
_SAID = re.compile(
    r"((?:api[_-]?key|access[_-]?key|secret|password|passwd|(?:hf|hub|auth|access|bearer)[_-]?token)['\"]?\s{0,2}[=:]"
    r"\s{0,2}['\"]?|\bbearer )([^\s'\",;}]+)",
    re.IGNORECASE,
)
"""In running text only names that surely are a secret's: eos_token and the like are not."""
_FORMS = ("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-", "sk-", "github_pat_", "AKIA", "://")
_NAMES = ("key", "secret", "passw", "token", "bearer ")

_values: set[str] = set()


def masked(words: Sequence[str]) -> list[str]:
    """The words with every value that looks like a secret, by its name or its form, replaced."""
    return [_KNOWN.sub(HIDDEN, plain) if value is None else f"{plain}{HIDDEN}" for plain, value in _told(words)]


def _told(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each word as what may be shown of it, and the secret behind that, or None."""
    found: list[tuple[str, str | None]] = []
    for index, word in enumerate(words):
        if index and _OPTION.match(words[index - 1]) and not word.startswith("-"):
            found.append(("", word))
        elif assigned := _ASSIGNED.match(word):
            found.append((assigned[1], assigned[2]))
        else:
            found.append((word, None))
    return found


def learn(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """From now on `hidden` knows the secrets on a command line and in an environment by their values."""
    values = [value for _, value in _told(words) if value is not None]
    values += [value for name, value in environment.items() if _VARIABLE.match(name)]
    _values.update(value for value in values if len(value) >= SHORTEST)


def hidden(text: str) -> str:
    """A text without the secrets that `learn` has seen, and without what is one by its form or the name before it."""
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    # Plain searches first: a log has millions of lines, and hardly one with a secret.
    if any(sign in text for sign in _FORMS):
        text = _KNOWN.sub(HIDDEN, text)
    small = text.lower()
    return _SAID.sub(rf"\g<1>{HIDDEN}", text) if any(sign in small for sign in _NAMES) else text


def hidden_in(value: Any) -> Any:
    """The same of every string in what JSON can hold, names of entries excepted."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return {name: hidden_in(item) for name, item in value.items()}
    return [hidden_in(item) for item in value] if isinstance(value, (list, tuple)) else value
