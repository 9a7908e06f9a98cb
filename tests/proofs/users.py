"""A user at work on files, and what must become of that work; written without anything of the engine.

Whose a line is, is known by its text: graft's lines and upstream's later ones are listed here by hand, each found
nowhere else, and every line that the user types carries a mark of its own. What is left of a file without graft's
lines, with those put back that graft rewrote, is the user's and upstream's together, and no command may change a byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

Line = tuple[bytes, bytes]
"""A line's text and what ends it: LF, CR LF, CR or, at the end of a file, nothing."""


def lines(content: bytes) -> list[Line]:
    found = re.findall(rb"([^\r\n]*)(\r\n|\r|\n)|([^\r\n]+)", content)
    return [(text or last, end) for text, end, last in found]


def split(text: bytes) -> tuple[bytes, bytes]:
    """A line's code and the comments that the user wrote behind it."""
    found = re.search(rb"(  # u\d+)+$", text)
    return (text[: found.start()], found[0]) if found else (text, b"")


@dataclass(frozen=True)
class Known:
    """The lines that are not the user's: those that come and go, and those that stand for another one."""

    passing: Collection[bytes] = ()
    rewritten: Mapping[bytes, bytes] = field(default_factory=dict)

    def rest(self, content: bytes) -> list[Line]:
        """What is the user's and upstream's in a file."""
        return [(self.before(text), end) for text, end in lines(content) if text not in self.passing]

    def before(self, text: bytes) -> bytes:
        """A line as it is without graft, with the user's own comment behind it."""
        code, comment = split(text)
        return self.rewritten.get(code, code) + comment


def same(before: Sequence[Line], after: Sequence[Line]) -> bool:
    """Whether the lines are the same bytes in the same order; the last one may have got, or lost, an end."""
    if [text for text, _ in before] != [text for text, _ in after]:
        return False
    if not before:
        return True
    one, other = before[-1][1], after[-1][1]
    return [end for _, end in before[:-1]] == [end for _, end in after[:-1]] and (one == other or b"" in (one, other))


# ------------------------------------------------------------------ what a user does


@dataclass(frozen=True)
class Deed:
    """One act on one file: where (a fraction of its lines), how many lines, and what is typed."""

    kind: str
    file: int
    at: int
    count: int
    style: int


KINDS = ("insert", "insert", "insert", "change", "change", "delete", "delete", "copy", "move", "append")
COMMENTS = ("insert", "append")
STYLES = (b"# %s", b"    # %s", b"%s = 1", b"    %s = 1", b"\t%s = 1", b"        %s(loss)", b"\xc3\xa9 %s \x0c\x1d(")
ENDS = (b"\n", b"\n", b"\r\n", b"\r")


def deeds(*kinds: str, comments: bool = False) -> st.SearchStrategy[Deed]:
    return st.builds(
        Deed,
        kind=st.sampled_from(kinds or KINDS),
        file=st.integers(0, 99),
        at=st.integers(0, 99),
        count=st.integers(1, 3),
        style=st.integers(0, 1) if comments else st.one_of(st.integers(0, 3), st.integers(0, len(STYLES) - 1)),
    )


class User:
    """Edits contents; ``typed`` counts the marks, so that each is used once."""

    def __init__(self, protected: Collection[bytes]) -> None:
        self.typed = 0
        self.protected = protected

    def mark(self, style: int) -> bytes:
        self.typed += 1
        return STYLES[style].replace(b"%s", b"u%d" % self.typed)

    def edit(self, content: bytes, deed: Deed) -> bytes:
        """The content after one deed; graft's own lines may be deleted and changed, but are never copied or moved."""
        old = lines(content)
        end = old[0][1] or b"\n" if old else ENDS[deed.at % len(ENDS)]
        if deed.style == 6:
            end = ENDS[deed.at % len(ENDS)]
        at = deed.at % (len(old) + 1)
        stop = min(at + deed.count, len(old))
        new = [(self.mark(deed.style), end) for _ in range(deed.count)]
        if deed.kind == "append":
            old = [*old[:-1], (old[-1][0], old[-1][1] or end)] if old else []
            last = b"" if deed.at % 3 == 0 else end
            return _text([*old, *new[:-1], (new[-1][0], last)])
        if deed.kind in ("insert", "change") or not old:
            stop = at if deed.kind != "change" else stop
            if deed.kind == "change" and deed.style % 2:  # the line itself, with a word more
                marks = [(text + b"  # " + self.mark(0)[2:], ending) for text, ending in old[at:stop]]
                return _text([*old[:at], *marks, *old[stop:]])
            return _text([*old[:at], *new, *old[stop:]])
        if deed.kind == "delete":
            return _text([*old[:at], *old[stop:]])
        piece = [line for line in old[at:stop] if line[0] not in self.protected]
        if deed.kind == "move":
            old = [line for i, line in enumerate(old) if not (at <= i < stop and line[0] not in self.protected)]
        to = deed.file * 7 % (len(old) + 1)
        return _text([*old[:to], *piece, *old[to:]])


def _text(made: Sequence[Line]) -> bytes:
    """The bytes of lines, all but the last of which are ended."""
    spare = next((end for _, end in made if end), b"\n")
    return b"".join(text + (end if i == len(made) - 1 else end or spare) for i, (text, end) in enumerate(made))
