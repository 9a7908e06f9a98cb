"""What a range of upstream commits does to the packs: each commit tried on its blobs, nothing checked out.

Edits of different files do not know of each other, so each file's are tried by themselves and remembered by what they
depend on. A commit that changes one file costs that file.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from graft.bisect import Named, named
from graft.candidates import Candidate
from graft.errors import BadInput, GraftError
from graft.fsops import digest
from graft.history import Commit, GitTree, History
from graft.pack import Pack
from graft.rewrite import Outcome, rewrite
from graft.successors import footprint, homes

STEP = 25
"""How many commits go by between two words of progress, since a log keeps every one of them."""
_GONE = "its definition was there before and is in no file any more"
STANDS, BROKEN, ASIDE = "stands", "broken", "set aside"


@dataclass(frozen=True)
class Failure:
    """One thing that fails at a commit.

    Attributes:
        edit: ``pack:number``; the pack alone for a post-condition, nothing for a whole file.
        what: the edit or post-condition in words.
        detail: why.
    """

    edit: str
    path: str
    definition: str
    what: str
    state: str
    detail: str
    candidates: tuple[Candidate, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.edit} {self.what}: {self.state}, {self.detail}"


@dataclass
class Trial:
    """One commit: how the packs end there, and which textual tools apply the diff made at the pin."""

    commit: Commit
    verdict: str
    failures: tuple[Failure, ...] = ()
    missing: tuple[str, ...] = ()  # definitions that no file of the commit has
    moved: tuple[tuple[str, str], ...] = ()  # where an edit's definition was declared, and where it stands
    touches: bool = True  # False where no commit of the range touches the files, and its end stands for all
    textual: dict[str, bool] = field(default_factory=dict)
    right: dict[str, bool] = field(default_factory=dict)  # whether what a tool made is what the packs mean
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of each edited file as the packs make it


@dataclass
class Stretch:
    """Successive broken commits that break alike."""

    first: Trial
    last: Trial
    commits: int
    failures: tuple[Failure, ...]


@dataclass
class Survival:
    """What a range came to."""

    upstream: str
    span: str
    pin: Commit | None
    trials: list[Trial]
    seconds: float
    tools: tuple[str, ...] = ()
    textual_seconds: float = 0.0

    @property
    def judged(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict != ASIDE]

    @property
    def broken(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict == BROKEN]

    @property
    def aside(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.verdict == ASIDE]

    @property
    def rate(self) -> float | None:
        """The share of the commits where the definitions exist at which all stands; None where there is none."""
        judged = self.judged
        return None if not judged else (len(judged) - len(self.broken)) / len(judged)

    def textual(self) -> dict[str, float]:
        """For each tool the share of the same commits at which the diff applies."""
        judged = self.judged
        return {tool: sum(trial.textual[tool] for trial in judged) / len(judged) for tool in self.tools if judged}

    def right(self) -> dict[str, float]:
        """For each tool the share of the same commits at which every edit then stands where the packs want it."""
        judged = self.judged
        return {tool: sum(trial.right[tool] for trial in judged) / len(judged) for tool in self.tools if judged}

    def stretches(self) -> list[Stretch]:
        """The broken commits, those next to each other that break alike as one."""
        found: list[Stretch] = []
        previous: Trial | None = None
        for trial in self.judged:
            if trial.verdict == BROKEN:
                alike = previous is not None and previous.verdict == BROKEN and previous.failures == trial.failures
                if alike:
                    found[-1].last = trial
                    found[-1].commits += 1
                else:
                    found.append(Stretch(trial, trial, 1, trial.failures))
            previous = trial
        return found


class Bench:
    """Some packs and one history: tries commits, and remembers what it found out.

    Args:
        packs: every edit of theirs must stand for a commit to count.
    """

    def __init__(self, history: History, packs: Sequence[Pack]) -> None:
        self.history = history
        self.packs = sorted(packs, key=lambda pack: pack.name)
        self.edits = named(packs)
        self.places = {(place.path, place.definition) for pack in packs for place in pack.edits}
        self.places |= {(condition.path, condition.definition) for pack in packs for condition in pack.ensures}
        self.groups = [self._group(path) for path in sorted({path for path, _ in self.places})]
        self._known: dict[tuple[object, ...], _Part] = {}
        self._had: dict[str, list[str]] = {}  # the commits tried so far at which a definition exists, oldest first

    def trials(self, span: str, *, progress: Callable[[str], None] = lambda text: None) -> list[Trial]:
        """Every commit of ``span`` that touches a file in which an edit stands, or stood then, oldest first.

        Where none does, the last commit of the range alone, so that there is an answer; its ``touches`` says so.

        Raises:
            BadInput: there is no commit in the range.
        """
        first, last = self.history.ends(span)
        if not self.history.commits(span):
            raise BadInput(f"no commit lies in {span}", where="--range", remedy="write the older end first, as in A..B")
        touching = self.history.commits(span, sorted(self.paths(span)))
        tree = self.history.tree(first)
        self._had = {name: [first] for path, name in self.places if name is not None and homes(tree, path, name)}
        made = []
        with _uncollected():
            for number, commit in enumerate(touching or [self.history.commit(last)], 1):
                if number % STEP == 1:
                    progress(f"trying the packs at commit {number} of {len(touching) or 1}")
                made.append(dataclasses.replace(self.trial(commit), touches=bool(touching)))
        return made

    def paths(self, span: str) -> set[str]:
        """The files in which the definitions stand, or stood at some commit of the range.

        A commit that makes a file touches it, so the commit before it shows the file that a definition came from; and
        so on back to the start.
        """
        history = self.history
        paths = {path for path, _ in self.places}
        looked: set[str] = set()
        pending = set(history.ends(span))
        while pending:
            for commit in pending:
                tree = history.tree(commit)
                for path, definition in self.places:
                    blob = tree.blob(path)
                    if definition and (blob is None or definition not in history.qualified_names(blob)):
                        paths |= {other for other, own in tree.modules() if definition in history.qualified_names(own)}
            looked |= pending
            touching = history.commits(span, sorted(paths))
            pending = {one for commit in touching for one in (commit.id, *commit.parents)} - looked
        return paths

    def trial(self, commit: Commit) -> Trial:
        """The packs at one commit."""
        tree = self.history.tree(commit.id)
        parts = [self._part(tree, group) for group in self.groups]
        landed = [path for part in parts for path in part.digests]
        if len(landed) != len(set(landed)):  # definitions of two files moved into one: their edits do meet
            everything = _Group("", tuple(self.packs), tuple(self.edits), tuple(sorted(self.places, key=str)))
            parts = [self._tried(tree, everything)]
        missing = {name for part in parts for name in part.missing}
        failures = tuple(failure for part in parts for failure in part.failures)
        moved = tuple(sorted({pair for part in parts for pair in part.moved}))
        digests = {path: sha256 for part in parts for path, sha256 in part.digests.items()}
        gone = {name for name in missing if self._was_there(name, commit.id)}
        failures += tuple(
            Failure(str(edit), edit.place.path, name, f"{edit.edit.verb} {edit.edit.anchor!r}", "lost", _GONE)
            for edit in self.edits
            if (name := edit.place.definition) in gone and name is not None
        )
        for _, name in self.places:
            if name is not None and name not in missing and commit.id not in self._had.setdefault(name, []):
                self._had[name].append(commit.id)
        verdict = BROKEN if gone or (failures and not missing) else ASIDE if missing else STANDS
        return Trial(commit, verdict, failures, tuple(sorted(missing)), moved, digests=digests)

    def _was_there(self, name: str, commit: str) -> bool:
        """Whether a commit that ``commit`` was made from has the definition, so that it is gone and not yet to come."""
        return any(self.history.contains(commit, earlier) for earlier in self._had.get(name, ()))

    def _group(self, path: str) -> _Group:
        packs = []
        for pack in self.packs:
            edits = [place for place in pack.edits if place.path == path]
            ensures = [condition for condition in pack.ensures if condition.path == path]
            if edits or ensures:  # a pack without edits must have an overlay, which a rewrite never looks at
                packs.append(dataclasses.replace(pack, edits=edits, ensures=ensures, overlays=pack.overlays or [path]))
        edits_here = tuple(edit for edit in self.edits if edit.place.path == path)
        places = tuple(sorted((place for place in self.places if place[0] == path), key=str))
        return _Group(path, tuple(packs), edits_here, places)

    def _part(self, tree: GitTree, group: _Group) -> _Part:
        key = (group.path, *(footprint(tree, path, definition) for path, definition in group.places))
        if key not in self._known:
            self._known[key] = self._tried(tree, group)
        return self._known[key]

    def _tried(self, tree: GitTree, group: _Group) -> _Part:
        missing = {name for path, name in group.places if name is not None and not homes(tree, path, name)}
        try:
            made = rewrite(tree, group.packs, parse=self.history.parse)
        except GraftError as error:
            return _Part(missing, [Failure("", error.where, "", "all edits", "refused", error.what)])
        pairs = list(zip(group.edits, made.outcomes, strict=True))
        gone = [edit for edit, _ in pairs if edit.place.definition in missing]
        failures = [_failure(edit, end) for edit, end in pairs if not end.good and edit not in gone]
        failures += [
            Failure("", error.where, "", "post-condition", "violated", error.what)
            for error in made.errors
            if not any(error.where.endswith(f"({name})") for name in missing)
        ]
        moved = {(edit.place.path, end.path) for edit, end in pairs if end.moved_from}
        digests = {path: digest(content) for path, content in made.contents.items()}
        return _Part(missing, failures, moved, digests)


@dataclass(frozen=True)
class _Group:
    """What stands in one file: packs with the edits and post-conditions of that file only."""

    path: str
    packs: tuple[Pack, ...]
    edits: tuple[Named, ...]
    places: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class _Part:
    """What a group came to."""

    missing: set[str]
    failures: list[Failure]
    moved: set[tuple[str, str]] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Syntax trees are millions of objects without a cycle: looking for cycles in them takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _failure(edit: Named, outcome: Outcome) -> Failure:
    what, definition = f"{outcome.verb} {outcome.anchor!r}", edit.place.definition or ""
    state, detail, candidates = outcome.state.value, outcome.detail, outcome.candidates
    return Failure(str(edit), outcome.path, definition, what, state, detail, candidates)
