"""The end of a run's log as text to search: pieces with their line numbers, the last attempt, tracebacks in chains."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runners.supervise.stamped import OWN

Piece = tuple[int, str]
"""Number of the line in the log, from 1, and what it says: a line has several pieces where a bar repainted itself."""

TAIL = 8_000
"""Lines at the end that are looked at: tracebacks of 64 ranks fill about 5,000."""
MOST = 2_000_000
"""Characters that are looked at: as many expressions as the table has go over each."""
WIDEST = 4_000
"""Characters of a piece: of a longer one its beginning and its end."""
STATES = 200
"""Last states of a progress bar that stand in one line."""
OVERCOME = 3
"""So many signs of progress may follow a death: another rank's last step, a bar that is painted again on closing."""
GAP = 40
"""Lines between two tracebacks that may still belong to one death: other ranks', and the launcher's."""
MESSAGE = 12
"""Lines of an exception's message after its first."""
WRAPPED = 200
"""Lines over which rich may break a message: starVLA's metrics fill about 60."""

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  ")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x00")
_RANK = re.compile(r"^\[(?:rank|default)?(\d+)\]: ?")
_ATTEMPT = re.compile(rf"^{re.escape(OWN)}attempt \d+: ")
_BAR = re.compile(r"\b(\d+)/(\d+) \[\d+:\d\d")
_METRICS = re.compile(r"""\{['"](?:loss|eval_loss)['"]:|\bStep \d+, Loss: |\[Global Step\] \d+|\bstep:? \d+/\d+""")
_RICH = re.compile(r"^(?:\S+ )?(?:\[[^\]]{4,}\])?\s*(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\S")
_PLACE = re.compile(r"\s{2,}\S+\.py:\d+\s*$")
_TRACEBACK = "Traceback (most recent call last)"
_LINKS = ("During handling of the above exception", "The above exception was the direct cause")
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt|Timeout)\b")
_LOGGED = re.compile(r"^\s*(?:\[[A-Z]\w*[|\]]|[A-Z]{4,8}[: ]|[WEIF]\d{4} |\d+%\|)")


@dataclass(frozen=True)
class Chain:
    """Tracebacks that led to each other, last one last: indices of pieces, and of those that name the exceptions."""

    pieces: tuple[int, ...]
    named: tuple[int, ...]


def clean(line: str) -> str:
    """A line without the supervisor's time stamp, colours and NUL bytes."""
    return _COLOUR.sub("", _STAMP.sub("", line)).rstrip()


def pieces_of(lines: Sequence[str]) -> list[Piece]:
    """The last attempt's lines, at most TAIL of them and MOST characters, cleaned and none longer than WIDEST.

    The supervisor's own lines are left out.
    """
    first = 0
    for index in range(len(lines) - 1, -1, -1):
        if OWN in lines[index] and _ATTEMPT.match(clean(lines[index])):
            first = index + 1
            break
    pieces: list[Piece] = []
    room, last = MOST, max(first, len(lines) - TAIL)
    for number in range(len(lines), last, -1):
        states = [clean(_cut(state)) for state in lines[number - 1].rsplit("\r", STATES)[-STATES:]]
        if any(state.startswith(OWN) for state in states[:1]):
            continue
        said = [(number, state) for state in states if state.strip()] or [(number, "")]
        room -= sum(len(state) for _, state in said)
        if room < 0 or len(pieces) >= TAIL:
            break
        pieces += reversed(said)
    return pieces[::-1][-TAIL:]


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST // 2]} … {text[-WIDEST // 2 :]}"


def end_of(pieces: Sequence[Piece]) -> int:
    """Index at which the end begins: from there on are at most OVERCOME signs of progress.

    A sign is a bar that has moved, or a line of metrics. What stands before went on for longer: it was overcome.
    """
    moved, seen = [], dict[str, int]()
    for index, (_, text) in enumerate(pieces):
        bar = _BAR.search(text)
        if bar and seen.get(bar[2], -1) != int(bar[1]):
            moved.append(index)
            seen[bar[2]] = int(bar[1])
        elif not bar and _METRICS.search(text):
            moved.append(index)
    return moved[-OVERCOME] if len(moved) >= OVERCOME else 0


def progress(pieces: Sequence[Piece]) -> Piece | None:
    """The last state of a progress bar."""
    return next(((number, text) for number, text in reversed(pieces) if _BAR.search(text)), None)


def chains(pieces: Sequence[Piece], start: int) -> list[Chain]:
    """Every chain of tracebacks from index `start` on, by the place of its end.

    Lines that torch marks with a rank are read rank by rank, since ranks write at the same time. Tracebacks that
    Python only reports ("Exception ignored in") are left out.
    """
    streams: dict[str, list[tuple[int, str]]] = {}
    for index in range(start, len(pieces)):
        text = pieces[index][1]
        rank = _RANK.match(text)
        streams.setdefault(rank[1] if rank else "", []).append((index, text[rank.end() :] if rank else text))
    found = [chain for stream in streams.values() for chain in _of_one(stream)]
    return sorted(found, key=lambda chain: chain.pieces[-1])


def _of_one(stream: Sequence[tuple[int, str]]) -> Iterator[Chain]:
    inside: list[int] = []
    named: list[int] = []
    at, ignored = 0, False
    while at < len(stream):
        if _TRACEBACK not in stream[at][1]:
            at += 1
            continue
        before = [text for _, text in stream[max(0, at - 3) : at]]
        if inside and not any(link in text for text in before for link in _LINKS):
            if not ignored:
                yield Chain(tuple(inside), tuple(named))
            inside, named = [], []
        if not inside:
            ignored = any(text.startswith("Exception ignored in") for text in before)
            inside = _before(stream, at)
        inside.append(stream[at][0])
        at += 1
        while at < len(stream) and (not stream[at][1].strip() or stream[at][1][0] in " \t│╭╰"):
            inside.append(stream[at][0])
            at += 1
        said = 0
        while at < len(stream) and stream[at][1].strip() and said <= MESSAGE:
            text = stream[at][1]
            if _TRACEBACK in text or (said and _LOGGED.match(text)):
                break
            if not said:
                named.append(stream[at][0])
            inside.append(stream[at][0])
            at, said = at + 1, said + 1
    if inside and not ignored:
        yield Chain(tuple(inside), tuple(named))


def _before(stream: Sequence[tuple[int, str]], at: int) -> list[int]:
    """Indices of exceptions that are linked to the traceback at `at` and were printed without one of their own."""
    kept: list[int] = []
    while True:
        lines = [index for index in range(max(0, at - 2 * MESSAGE), at) if stream[index][1].strip()]
        if not lines or not any(link in stream[lines[-1]][1] for link in _LINKS):
            return [stream[index][0] for index in sorted(kept)]
        first = next((index for index in reversed(lines[:-1]) if _EXCEPTION.match(stream[index][1])), lines[-1])
        kept += [index for index in lines if index >= first]
        at = first


def cluster(found: Sequence[Chain]) -> list[Chain]:
    """The chains that belong to the last death: no more than GAP lines lie between one and the next."""
    kept: list[Chain] = []
    for chain in reversed(found):
        if kept and min(each.pieces[0] for each in kept) - chain.pieces[-1] > GAP:
            break
        kept.insert(0, chain)
    return kept


class Text:
    """Pieces as one text for regular expressions, and the way back from a place in it to the pieces' lines."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = [(number, _RANK.sub("", text)) for number, text in pieces]
        self.starts, length = [], 0
        for _, text in self.pieces:
            self.starts.append(length)
            length += len(text) + 1
        self.text = "\n".join(text for _, text in self.pieces)

    def lines(self, start: int, end: int) -> list[Piece]:
        """The pieces from character `start` to `end`."""
        return self.pieces[bisect_right(self.starts, start) - 1 : bisect_right(self.starts, max(start, end - 1))]

    def last(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The pattern's last match."""
        match = None
        for match in pattern.finditer(self.text):  # noqa: B007
            pass
        return match


def unwrapped(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, and for each message that rich broke over lines the whole of it, joined with and without blanks."""
    out: list[Piece] = []
    message: list[str] = []
    first = 0

    def close() -> None:
        if len(message) > 1:
            out.extend([(first, " ".join(message)), (first, "".join(message))])
        message.clear()

    for number, text in pieces:
        if _RICH.match(text):
            close()
            first = number
            message.append(_PLACE.sub("", text).strip())
        elif 0 < len(message) < WRAPPED and text.startswith(" " * 16):
            message.append(_PLACE.sub("", text).strip())
        else:
            close()
        out.append((number, text))
    close()
    return out
