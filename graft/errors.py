"""What can go wrong, said so that a person can act on it: the thing, the place and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of ``apply.py``; when several hold, the lowest non-zero one of these wins in this order."""

    OK = 0
    FAILED = 1  # an edit was lost or ambiguous, a collision, a checkout that cannot be used
    USAGE = 2  # bad arguments, a malformed lock, pack or overlay: nothing was tried
    UNREACHABLE = 3  # an upstream could not be fetched; the others were done
    DRIFT = 4  # ``check``: what is there is not what the packs would write


class GraftError(Exception):
    """An error that reaches the user as text, never as a traceback.

    Args:
        what: the thing that is wrong, one sentence without a full stop.
        where: the file, line, lock entry or edit that it is about.
        remedy: what to do now, an imperative; a command where one exists.
    """

    exit_code = Exit.FAILED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  -> {self.remedy}" if self.remedy else head

    def as_dict(self) -> dict[str, str]:
        return {"error": self.what, "where": self.where, "remedy": self.remedy}


class BadInput(GraftError):
    """The lock, a pack, an overlay or an argument is malformed; found before anything is written."""

    exit_code = Exit.USAGE


class Unreachable(GraftError):
    """No source gave the pinned tree of an upstream."""

    exit_code = Exit.UNREACHABLE


class Collision(GraftError):
    """A user's own edit and a graft want the same lines; nothing was touched."""


class Several(GraftError):
    """Everything that failed in one run, so that one run is enough to see it all."""

    def __init__(self, errors: Sequence[GraftError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)
        self.exit_code = min(error.exit_code for error in errors)
