"""All edits of some packs on one tree: where each stands, and the new bytes of the files they change.

Nothing is written here, and no upstream code is run: a tree goes in, contents and outcomes come out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePosixPath

from graft.candidates import Candidate, rank
from graft.edits.base import Edit, Finding, Match, Splice
from graft.edits.choice import Either
from graft.edits.members import AddImport
from graft.edits.statements import AtStatement
from graft.errors import BadInput, GraftError
from graft.pack import Ensure, In, Pack
from graft.source import Definition, Source
from graft.tree import Tree


class State(str, Enum):
    """How an edit ends in one run."""

    APPLIED = "applied"
    ALREADY = "already applied"  # it stands in the tree, graft did not put it there
    LOST = "lost"
    AMBIGUOUS = "ambiguous"
    FAILED = "failed"  # it was written and its post-condition does not hold


@dataclass
class Outcome:
    """One edit's end, with all that a person needs to mend it."""

    pack: str
    verb: str
    anchor: str
    added: str
    why: str
    declared: str
    definition: str | None
    path: str
    state: State
    moved_from: str | None = None
    lines: tuple[int, ...] = ()
    detail: str = ""
    candidates: tuple[Candidate, ...] = ()

    @property
    def good(self) -> bool:
        return self.state in (State.APPLIED, State.ALREADY)

    def as_error(self) -> GraftError:
        where = f"{self.path} ({self.definition or 'module'})"
        lines = [f"{self.pack}: {self.verb} {self.anchor!r} is {self.state.value}: {self.detail}"]
        lines += [f"    {candidate}" for candidate in self.candidates]
        return GraftError("\n".join(lines), where=where, remedy=f"change the edit at {self.declared}")


@dataclass
class Rewrite:
    """What the packs make of a tree."""

    contents: dict[str, bytes] = field(default_factory=dict)  # every file that some edit stands in, as it shall be
    packs_of: dict[str, set[str]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[GraftError] = field(default_factory=list)

    @property
    def failures(self) -> list[GraftError]:
        return [*(outcome.as_error() for outcome in self.outcomes if not outcome.good), *self.errors]


@dataclass
class _Work:
    """An edit on its way through a run."""

    edit: Edit
    place: In
    outcome: Outcome
    finding: Finding
    fights: bool = False  # which is said once, and not again as an edit that does not stand


Parse = Callable[[str, bytes], Source]
_RELATIVE = re.compile(r"^(\s*from\s+)(\.+)\s*([\w.]*)\s+import\b", re.MULTILINE)


def rewrite(tree: Tree, packs: Sequence[Pack], *, parse: Parse = Source) -> Rewrite:
    """Locates every edit on ``tree`` as it is, then splices all of them, whatever the order of the packs.

    Args:
        parse: reads a file; a caller that tries many trees passes one that remembers.

    Two edits that fight for one anchor are among the errors, as bad input.
    """
    packs = sorted(packs, key=lambda pack: pack.name)
    result = Rewrite()
    reader = _Reader(tree, parse)
    added = [edit for pack in packs for _, edit in pack.each()]
    works = [work for pack in packs for place in pack.edits for work in _locate(reader, pack, place, added)]
    result.outcomes = [work.outcome for work in works]
    by_path: dict[str, list[_Work]] = {}
    for work in works:
        if work.outcome.good:
            by_path.setdefault(work.outcome.path, []).append(work)
    for path, own in sorted(by_path.items()):
        source = reader.source(path)
        assert source is not None
        result.packs_of[path] = {work.outcome.pack for work in own}
        result.contents[path] = splice(source, own, result.errors)
    _prove(result, by_path, packs, added, reader, parse)
    return result


class _Reader:
    """Parses each file of a tree once, and says where a definition is."""

    def __init__(self, tree: Tree, parse: Parse) -> None:
        self.tree = tree
        self._parse = parse
        self._sources: dict[str, Source | None] = {}

    def source(self, path: str) -> Source | None:
        if path not in self._sources:
            content = self.tree.read(path)
            self._sources[path] = None if content is None else self._parse(path, content)
        return self._sources[path]

    def locate(self, path: str, definition: str | None) -> tuple[str, list[Definition]] | str:
        """The file and the definitions that are meant, or why there are none."""
        source = self.source(path)
        if source is not None:
            scopes = source.definitions(definition)
            if scopes:
                return path, scopes
        if definition is None:
            return f"there is no file {path}"
        elsewhere = []
        for candidate in self.tree.defining(definition.split(".")[-1]):
            try:
                other = self.source(candidate) if candidate != path else None
            except GraftError:  # a file that nobody can read is not where the definition went
                continue
            scopes = other.definitions(definition) if other is not None else []
            if scopes:
                elsewhere.append((candidate, scopes))
        if len(elsewhere) == 1:
            return elsewhere[0]
        if elsewhere:
            return f"{definition} is not there, but in several other files: " + ", ".join(file for file, _ in elsewhere)
        missing = "there is no such file" if source is None else "it is not in that file"
        return f"{definition} is not found: {missing}, and no other file defines it"


def _locate(reader: _Reader, pack: Pack, place: In, added: Sequence[Edit]) -> list[_Work]:
    try:
        located = reader.locate(place.path, place.definition)
    except GraftError as error:
        located = str(error)
    works = []
    for edit in place.edits:
        outcome = Outcome(
            pack=pack.name,
            verb=edit.verb,
            anchor=edit.anchor,
            added=edit.added,
            why=edit.why,
            declared=edit.where,
            definition=place.definition,
            path=place.path,
            state=State.LOST,
        )
        if isinstance(located, str):
            outcome.detail = located
            works.append(_Work(edit, place, outcome, Finding(Match.LOST)))
            continue
        path, scopes = located
        source = reader.source(path)
        assert source is not None
        if path != place.path:
            outcome.path, outcome.moved_from = path, place.path
            edit = follow(edit, place.path, path)
        finding = _find(edit, source, scopes, added, outcome)
        works.append(_Work(edit, place, outcome, finding))
    return works


def _find(edit: Edit, source: Source, scopes: Sequence[Definition], added: Sequence[Edit], outcome: Outcome) -> Finding:
    where: Sequence[Definition] = [source.module] if isinstance(edit, AddImport) else scopes
    try:
        finding = edit.find(source, where, lambda statement: any(other.adds_statement(statement) for other in added))
    except BadInput:
        raise
    except GraftError as error:
        finding = Finding(Match.AMBIGUOUS, detail=str(error))
    outcome.lines, outcome.detail = finding.lines, finding.detail
    outcome.state = {
        Match.READY: State.APPLIED,
        Match.PRESENT: State.ALREADY,
        Match.LOST: State.LOST,
        Match.AMBIGUOUS: State.AMBIGUOUS,
    }[finding.match]
    if finding.match in (Match.LOST, Match.AMBIGUOUS):
        outcome.candidates = rank(edit, source, scopes)
    return finding


def follow(edit: Edit, old: str, new: str) -> Edit:
    """The edit as it must read in the file to which its definition moved: relative imports point the same way."""
    if isinstance(edit, Either):
        return replace(edit, options=tuple((versions, follow(option, old, new)) for versions, option in edit.options))
    if not isinstance(edit, AddImport | AtStatement):
        return edit
    moved = _RELATIVE.sub(lambda found: f"{found[1]}{_from(found[2], found[3], old, new)} import", edit.add)
    return edit if moved == edit.add else replace(edit, add=moved)


def _from(dots: str, module: str, old: str, new: str) -> str:
    """The relative module that means in ``new`` what ``dots`` and ``module`` mean in ``old``."""
    folder = PurePosixPath(old).parent.parts
    package = folder[: len(folder) - (len(dots) - 1)]
    here = PurePosixPath(new).parent.parts
    shared = 0
    while shared < min(len(package), len(here)) and package[shared] == here[shared]:
        shared += 1
    return "." * (len(here) - shared + 1) + ".".join([*package[shared:], *([module] if module else [])])


def splice(source: Source, works: Sequence[_Work], errors: list[GraftError]) -> bytes:
    """The file with every splice in it; as it is where two of them want the same code, which goes to ``errors``."""
    placed: list[tuple[Splice, _Work]] = []
    for work in works:
        for own in work.finding.splices:
            twin = next((other for done, other in placed if done == own and isinstance(work.edit, AddImport)), None)
            if twin is None:
                placed.append((own, work))
    # At one place, what goes below a statement comes first, then what goes above the next one.
    ordered = sorted(placed, key=lambda pair: (pair[0].start, pair[0].end, pair[0].anchor[0] >= pair[0].start))
    fights = list(_fights(source, ordered))
    if fights:
        errors += fights
        return source.content
    pieces, at = [], 0
    for own, _ in ordered:
        pieces += [source.content[at : own.start], own.text]
        at = own.end
    return b"".join([*pieces, source.content[at:]])


def _fights(source: Source, placed: Sequence[tuple[Splice, _Work]]) -> Iterator[BadInput]:
    for index, (left, first) in enumerate(placed):
        for right, second in placed[index + 1 :]:
            if first is second:
                continue
            overlap = left.end > right.start
            twice = (left.start, left.end, left.text) == (right.start, right.end, right.text)
            named = left.key != "" and (left.key, left.anchor) == (right.key, right.anchor)
            taken = any(
                one.changes_anchor and one.start < other.anchor[1] and other.anchor[0] < one.end
                for one, other in ((left, right), (right, left))
            )
            if overlap or twice or taken or named:
                for work in (first, second):
                    work.fights = True
                yield _fight(source, left.start, first, second)


def _fight(source: Source, offset: int, first: _Work, second: _Work) -> BadInput:
    names = sorted((_name(first), _name(second)))
    return BadInput(
        f"{names[0]} and {names[1]} fight for one anchor",
        where=f"{source.path}:{source.content.count(bytes((10,)), 0, offset) + 1}",
        remedy="let one of them anchor elsewhere, or make one edit of both",
    )


def _name(work: _Work) -> str:
    return f"{work.outcome.pack}: {work.edit.verb} {work.edit.anchor!r} ({work.edit.where})"


def _prove(
    result: Rewrite,
    by_path: dict[str, list[_Work]],
    packs: Sequence[Pack],
    added: Sequence[Edit],
    reader: _Reader,
    parse: Parse,
) -> None:
    """Parses what was made and looks for every edit again: it must stand there, once, where it can run."""
    made: dict[str, Source] = {}
    for path, works in by_path.items():
        try:
            made[path] = parse(path, result.contents[path])
        except GraftError as error:
            for work in works:
                work.outcome.state = State.FAILED
                work.outcome.detail = f"the file does not parse afterwards: {error.what}"
            continue
        for work in works:
            scopes = made[path].definitions(work.place.definition)
            check = Outcome(**{**vars(work.outcome)})
            finding = _find(work.edit, made[path], scopes, added, check)
            dead = work.edit.unreachable(made[path], scopes)
            if work.fights or (finding.match is Match.PRESENT and not dead):
                continue
            source = reader.source(path)
            assert source is not None
            others = [other for other in works if other is not work and _inside(other, work)]
            if others and not dead:
                result.errors.append(_fight(source, work.finding.splices[0].start, work, others[0]))
                continue
            work.outcome.state = State.FAILED
            work.outcome.detail = dead or f"after writing it is {finding.match.value}: {finding.detail}"
    for pack in packs:
        for condition in pack.ensures:
            result.errors += _violated(condition, pack, made, reader)


def _inside(one: _Work, other: _Work) -> bool:
    """Whether an edit writes into the code that another one anchors at."""
    return any(
        own.anchor[0] < added.start < own.anchor[1] for own in other.finding.splices for added in one.finding.splices
    )


def _violated(condition: Ensure, pack: Pack, made: dict[str, Source], reader: _Reader) -> list[GraftError]:
    try:
        located: tuple[str, list[Definition]] | str = reader.locate(condition.path, condition.definition)
    except GraftError as error:
        return [error]
    found = 0
    if not isinstance(located, str):
        path = located[0]
        source = made.get(path) or reader.source(path)
        assert source is not None
        found = condition.count(source.definitions(condition.definition))
    if found == condition.times:
        return []
    return [
        GraftError(
            f"{pack.name}: post-condition {condition.pattern!r} holds {found} times, {condition.times} wanted"
            f" ({condition.why})",
            where=f"{condition.path} ({condition.definition or 'module'})",
            remedy=f"change the pack at {condition.where}",
        )
    ]
