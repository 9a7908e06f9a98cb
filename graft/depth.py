"""Code nested too deeply for the parser, found before it is parsed.

libcst's parser is native code that recurs with the syntax and has no limit of its own: a few thousand levels end the
process. Python itself refuses more than `LEVELS` brackets within each other, so no file that runs is refused here.
"""

from __future__ import annotations

import re

LEVELS = 200
"""Brackets within each other; CPython's own limit (MAXLEVEL in its tokenizer)."""
CHAIN = 3_000
"""Operators in a row, or branches of one ``if``: each is a level too; 8 MiB of stack hold several times as many."""

_TOKEN = re.compile(
    rb"\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|#[^\n]*"
    rb"|(?P<open>[(\[{])|(?P<close>[)\]}])",
    re.DOTALL,
)
_LITERAL = re.compile(rb"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|#.*")
_OPERATOR = re.compile(rb"[-+~*/%@&|^<>=.]|\b(?:not|and|or|in|is|if|else|lambda|await|for)\b")
_BRANCHES = re.compile(rb"^[ \t]*elif\b", re.MULTILINE)


def too_deep(content: bytes) -> str:
    """Why ``content`` must not be given to the parser; nothing where it may."""
    depth = 0
    for token in _TOKEN.finditer(content):
        if token.lastgroup == "open":
            depth += 1
            if depth > LEVELS:
                at = content.count(b"\n", 0, token.start()) + 1
                return f"more than {LEVELS} brackets within each other, line {at}"
        elif token.lastgroup == "close":
            depth = max(0, depth - 1)
    for number, line in enumerate(content.split(b"\n"), 1):
        if len(line) > CHAIN and any(_is_chain(part) for part in _LITERAL.sub(b"", line).split(b",")):
            return f"more than {CHAIN} operators in a row, line {number}"
    if len(_BRANCHES.findall(content)) > CHAIN:
        return f"more than {CHAIN} branches"
    return ""


def _is_chain(code: bytes) -> bool:
    return len(code) > CHAIN and len(_OPERATOR.findall(code)) > CHAIN
