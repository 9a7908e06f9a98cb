"""Tokens and passwords on a command line, which logs, decisions and reports must not show."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
_NAME = r"(?:[\w.-]*[_.-])?(?:token|api[_-]?key|secret|password|passwd|access[_-]?key)"
_ASSIGNED = re.compile(rf"^(-{{0,2}}{_NAME}=).+", re.IGNORECASE | re.DOTALL)
_OPTION = re.compile(rf"^--?{_NAME}$", re.IGNORECASE)
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})|(?<=://)[^/@\s]+:[^/@\s]+(?=@)")
"""Tokens by their form: of the model hub, of language models' services, and a name with a password in an address."""


def masked(words: Sequence[str]) -> list[str]:
    """The words with every value that looks like a secret, by its name or its form, replaced."""
    found = []
    for index, word in enumerate(words):
        if index and _OPTION.match(words[index - 1]) and not word.startswith("-"):
            found.append(HIDDEN)
        else:
            found.append(_KNOWN.sub(HIDDEN, _ASSIGNED.sub(rf"\g<1>{HIDDEN}", word)))
    return found
