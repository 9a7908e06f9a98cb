"""Why a run died: what its log and its exit state say by the table of causes.

The table's order decides where two rows fit alike. Rows marked `follows` tell of what another process's death brings
about (a time-out of a collective, a worker that is gone, a signal); they are asked after all others.

1. A run that ended with code 0, or that the supervisor ended for a reason of its own, did not die.
2. Only the end of the last attempt counts: what more than three signs of progress follow (a bar that moved, a line of
   metrics) was overcome, be it a warning, a request that was tried again or an exception that was caught.
3. The last tracebacks, with those close before them (other ranks write at the same time), are one death. A row that
   fits one of them and does not follow is the cause.
4. A traceback that no row fits, and that is no launcher's, is a cause nobody knows, whatever warnings stand around it;
   unless the exit state says that the process was ended from outside.
5. An exit state given from outside decides: SIGKILL, for want of memory where the kernel counted such a kill in this
   control group, or SIGTERM. A launcher that tells how its child ended (torchrun, accelerate, DeepSpeed) is believed.
   The kernel's count alone decides nothing: it counts another job's process too.
6. The rows are tried on the end's other lines and on the exit state: those that do not follow, then those that do.
   Such a line must tell of an error itself (error_lines.py) and stand near the end: a sample of the data or a warning
   may hold the same words. An exception after it that no row fits is a cause nobody knows. Rows that follow and change
   nothing of the result need no such line.
7. `signs`: what spoils a run without ending it, a NaN loss, where no `good` line comes after the last bad one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from runners.supervise.cause_table import Cause
from runners.supervise.error_lines import shaped
from runners.supervise.logtext import (
    Chain,
    Piece,
    Text,
    chains,
    cluster,
    end_of,
    pieces_of,
    progress,
    unwrapped,
)

OUTSIDE = (-9, 137, -15, 143)
"""Exit states that a process is given from outside: as `subprocess` tells them, and as shells do."""
KILLED = (-9, 137)
NEAR = 400
"""Lines at the end that are believed without a traceback: torchrun's summary of 64 ranks fills about 380."""
LINES = 12
"""Lines that are shown of a death."""
WIDTH = 400
"""Characters that are shown of a line: a progress bar or a list of options can be of any length."""

_LAUNCHER = re.compile(
    r"ChildFailedError|CalledProcessError|SignalException|^KeyboardInterrupt|^SystemExit"
    r"|^ConnectionResetError|^BrokenPipeError",
    re.MULTILINE,
)
"""Exceptions that only tell of another process's death."""
_CHILD = re.compile(
    r"failed \(exitcode: (-?\d+)\)|died with <Signals\.\w+: (\d+)>|exits with return code = (-?\d+)", re.MULTILINE
)
_ERROR = re.compile(r"\b(?:error|fatal|exception|abort(?:ed)?|killed|failed|core dumped)\b", re.IGNORECASE)

_WORKER_KILLED = re.compile(r"is killed by signal: Killed")
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): \S", re.MULTILINE)

Fit = tuple[Cause, re.Match[str], Text]


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` as `subprocess` tells it (a signal is negative), after `seconds`."""

    code: int
    seconds: float
    host_memory: bool
    """The kernel's count of this control group's processes killed for want of memory rose meanwhile."""
    hung: bool
    """It was ended since it had said nothing for too long."""
    asked: bool
    """The supervisor ended it for another reason."""


@dataclass(frozen=True)
class Diagnosis:
    """The cause, or None where no row fits; `lines` are those that matter, with their numbers in the log."""

    cause: Cause | None
    lines: tuple[Piece, ...]
    ended: Ended
    found: Mapping[str, str] = field(default_factory=dict)
    """Named groups of the pattern that fitted: the missing package."""


def diagnose(lines: Sequence[str], ended: Ended, causes: Sequence[Cause]) -> Diagnosis:
    """The diagnosis of a log's lines, raw or with the supervisor's time stamps, by this module's rule."""
    if not ended.hung and (ended.code == 0 or ended.asked):
        return Diagnosis(None, (), ended)
    return _Death(pieces_of(lines), ended, causes).diagnosis()


class _Death:
    """The end of one attempt, read once."""

    def __init__(self, pieces: Sequence[Piece], ended: Ended, causes: Sequence[Cause]) -> None:
        self.pieces, self.ended = pieces, ended
        self.roots = [cause for cause in causes if not cause.follows]
        self.followers = [cause for cause in causes if cause.follows]
        start = end_of(pieces)
        found = chains(pieces, start)
        self.own = cluster([chain for chain in found if not self.by_launcher(chain)])
        self.launchers = cluster([chain for chain in found if self.by_launcher(chain)])
        # A traceback that stands further back was caught.
        read = {index for chain in found if not self.by_launcher(chain) for index in chain.pieces}
        self.rest = Text(unwrapped([pieces[index] for index in range(start, len(pieces)) if index not in read]))
        self.near = Text(self.rest.pieces[-NEAR:])
        self.code = self.child_code()

    def by_launcher(self, chain: Chain) -> bool:
        """Whether the chain ends in an exception that only tells of another process."""
        return any(_LAUNCHER.search(self.pieces[index][1]) for index in chain.named[-1:])

    def child_code(self) -> int:
        """The exit code, or the one that a launcher tells of the child that died first."""
        launched = Text([self.pieces[index] for chain in self.launchers for index in chain.pieces])
        told = _CHILD.search(self.rest.text) or _CHILD.search(launched.text)
        if self.ended.code != 1 or told is None:
            return self.ended.code
        return -int(told[2]) if told[2] else int(told[1] or told[3])

    def diagnosis(self) -> Diagnosis:
        texts = [Text([self.pieces[index] for index in chain.pieces]) for chain in self.own]
        if cause := self.by_last_word():
            return Diagnosis(cause, self.tail(), self.ended)
        if fit := min(self.fits(texts, self.roots), key=lambda fit: self.roots.index(fit[0]), default=None):
            return self.of_fit(fit)
        # What was ended since it had hung has the exit state of the signal that ended it.
        outside = (self.code in OUTSIDE or self.short_of_memory()) and not self.ended.hung
        if not outside and not self.ended.hung and len(self.fits(texts, self.followers)) < len(texts):
            return self.unknown()
        if outside:
            for cause in (*self.roots, *self.followers):
                # The kernel's own line tells of memory where its counters are out of reach.
                if self.by_exit(cause) or ("host_memory" in cause.exit and self.loose(cause)):
                    return self.of_exit(cause)
        for causes, where in ((self.roots, []), (self.followers, texts)):
            for cause in causes:
                if fit := next(iter(self.fits(where, [cause])), None) or self.loose(cause):
                    return self.of_fit(fit)
                if self.by_exit(cause):
                    return self.of_exit(cause)
        return self.by_sign() or self.unknown()

    def fits(self, texts: Sequence[Text], causes: Sequence[Cause]) -> list[Fit]:
        """For each text the first of the causes that fits, where one does."""
        found = []
        for text in texts:
            each = ((cause, text.last(pattern), text) for cause in causes for pattern in cause.patterns)
            if fit := next(((cause, match, text) for cause, match, text in each if match), None):
                found.append(fit)
        return found

    def loose(self, cause: Cause) -> Fit | None:
        """Where a row fits lines near the end that belong to no traceback."""
        trusted = cause.follows and cause.changes_result == "no"
        for pattern in cause.patterns:
            for match in reversed(list(pattern.finditer(self.near.text))):
                found = self.near.lines(match.start(), match.end())
                if trusted or (any(shaped(text) for _, text in found) and match.end() > self.last_unknown):
                    return cause, match, self.near
        return None

    @cached_property
    def last_unknown(self) -> int:
        """Where near the end the last exception is told of that no row fits, and that is no launcher's; else -1."""
        for raised in reversed(list(_RAISED.finditer(self.near.text))):
            line = Text(self.near.lines(raised.start(), raised.end()))
            if not (_LAUNCHER.search(line.text) or self.fits([line], [*self.roots, *self.followers])):
                return raised.start()
        return -1

    def short_of_memory(self) -> bool:
        """Whether the kernel has killed a process of this job for want of memory: counted one, and one was killed."""
        if not self.ended.host_memory:
            return False
        read = [self.pieces[index][1] for chain in self.own for index in chain.pieces]
        return self.code in KILLED or any(_WORKER_KILLED.search(text) for text in (*read, self.near.text))

    def by_last_word(self) -> Cause | None:
        """The row of a program that hangs with these last words."""
        if not self.ended.hung:
            return None
        last = next((text for _, text in reversed(self.pieces) if text.strip()), "")
        rows = (*self.roots, *self.followers)
        return next((cause for cause in rows if any(word.search(last) for word in cause.hung_at)), None)

    def by_exit(self, cause: Cause) -> bool:
        if self.ended.hung:
            return "hung" in cause.exit
        return self.code in cause.exit or ("host_memory" in cause.exit and self.short_of_memory())

    def by_sign(self) -> Diagnosis | None:
        whole = Text(unwrapped(self.pieces))
        for cause in (*self.roots, *self.followers):
            last = max((match for sign in cause.signs if (match := whole.last(sign))), key=re.Match.end, default=None)
            if last is None:
                continue
            after = whole.lines(last.end(), len(whole.text))[1:]
            if not any(good.search(text) for good in cause.good for _, text in after):
                return self.of_fit((cause, last, whole))
        return None

    def of_fit(self, fit: Fit) -> Diagnosis:
        cause, match, text = fit
        found = {name: value for name, value in match.groupdict().items() if value}
        return Diagnosis(cause, _shown(text.lines(match.start(), match.end())[-LINES:]), self.ended, found)

    def of_exit(self, cause: Cause) -> Diagnosis:
        fit = self.loose(cause)
        return self.of_fit(fit) if fit else Diagnosis(cause, self.tail(), self.ended)

    def tail(self) -> tuple[Piece, ...]:
        return _shown([piece for piece in self.pieces[-LINES:] if piece[1].strip()][-3:])

    def unknown(self) -> Diagnosis:
        """The last traceback, lines that tell of errors, and the last state of a progress bar."""
        kept: set[Piece] = set()
        for chain in (self.own or self.launchers)[-1:]:
            at = chain.pieces.index(chain.named[-1]) if chain.named else len(chain.pieces)
            kept |= {self.pieces[index] for index in chain.pieces[max(0, at - LINES) : at + 4]}
        kept |= set([piece for piece in self.rest.pieces if _ERROR.search(piece[1])][-4:])
        kept |= {state for state in (progress(self.pieces),) if state}
        return Diagnosis(None, _shown(sorted(kept)) or self.tail(), self.ended)


def _shown(lines: Sequence[Piece]) -> tuple[Piece, ...]:
    """Lines with something on them, cut to WIDTH."""
    cut: Iterator[Piece] = ((number, text if len(text) <= WIDTH else f"{text[:WIDTH]} …") for number, text in lines)
    return tuple(line for line in cut if line[1].strip())
