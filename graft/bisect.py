"""``python apply.py bisect NAME --edit E --good A --bad B``: the upstream commit at which an edit stops to locate.

Every commit on the way is tried, oldest first, so the answer is the first one even where the edit came and went. A
commit in which the file is the same as in the one before costs a look at its tree. With ``--good`` newer than ``--bad``
the question is turned round: the commit at which the edit starts to locate.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.actions import Project
from graft.candidates import Candidate
from graft.edits.base import Edit
from graft.errors import BadInput, Exit, GraftError
from graft.history import Commit, History, find
from graft.lock import Upstream
from graft.pack import In, Pack, load_pack
from graft.pattern import code
from graft.rewrite import Outcome, rewrite
from graft.successors import footprint, resembling, source_of
from graft.tree import definition_of
from graft.ui import Screen


@dataclass(frozen=True)
class Named:
    """An edit with a name to ask for it by: the pack's and its number in the pack, from 1."""

    pack: Pack
    place: In
    edit: Edit
    number: int

    def __str__(self) -> str:
        return f"{self.pack.name}:{self.number}"

    @property
    def alone(self) -> Pack:
        """A pack of this edit only."""
        return dataclasses.replace(self.pack, edits=[In(self.place.path, self.place.definition, self.edit)], ensures=())


def named(packs: Sequence[Pack]) -> list[Named]:
    """Every edit of some packs, in the order in which ``rewrite`` reports them."""
    ordered = sorted(packs, key=lambda pack: pack.name)
    return [Named(pack, *pair, number) for pack in ordered for number, pair in enumerate(pack.each(), 1)]


def choose(edits: Sequence[Named], wanted: str) -> Named:
    """The edit called ``pack:number``, or the one whose anchor, addition or definition holds the text ``wanted``.

    Raises:
        BadInput: none, or several.
    """
    by_name = [one for one in edits if str(one) == wanted]
    by_text = [one for one in edits if wanted in f"{one.edit.anchor}\n{one.edit.added}\n{one.place.definition or ''}"]
    found = by_name or by_text
    if len(found) == 1:
        return found[0]
    shown = ((one, one.place.definition or "module") for one in found or edits)
    listed = "\n".join(f"       {one}  {definition}: {_short(one.edit)}" for one, definition in shown)
    raise BadInput(
        f"{wanted!r} names {len(found) or 'no'} edit{'s' if found else ''}",
        where="--edit",
        remedy=f"name one of these:\n{listed}",
    )


def _short(edit: Edit) -> str:
    return f"{edit.verb} {edit.anchor!r} add {edit.added.splitlines()[0]!r}"


@dataclass(frozen=True)
class Break:
    """Where an edit's fate turns.

    Attributes:
        commit: the one that did it; where a merge brought it in, the commit of the branch that was merged.
        merge: the merge on the way from good to bad that brought it in, if one did.
        before: the id of the last commit before it.
        outcome: how the edit ends at ``commit``.
        turns: every later commit at which it turned again.
    """

    commit: Commit
    merge: Commit | None
    before: str
    outcome: Outcome
    turns: tuple[Commit, ...] = ()


class Probe:
    """Tries one edit at commits, and remembers the answer for every content that it depends on."""

    def __init__(self, history: History, edit: Named) -> None:
        self.history = history
        self.edit = edit
        self._alone = edit.alone
        self._known: dict[tuple[object, ...], Outcome] = {}

    def at(self, commit: str) -> Outcome:
        tree = self.history.tree(commit)
        key = footprint(tree, self.edit.place.path, self.edit.place.definition)
        if key not in self._known:
            self._known[key] = rewrite(tree, [self._alone], parse=self.history.parse).outcomes[0]
        return self._known[key]


def first_breaking(history: History, edit: Named, good: str, bad: str) -> Break:
    """The first commit after ``good`` on the way to ``bad`` at which an edit no longer locates.

    The way is that of first parents. Where a merge did it, the branch that it brought in is searched in turn. Where
    ``bad`` is older than ``good``, it is the first commit at which the edit locates.

    Raises:
        GraftError: the edit ends alike at both; or neither is made from the other and their fork ends like ``bad``.
    """
    probe = Probe(history, edit)
    good, bad = history.resolve(good), history.resolve(bad)
    if not probe.at(good).good:
        raise GraftError(f"{edit} does not locate at the good end", where=good[:10], remedy="name an older --good")
    if probe.at(bad).good:
        raise GraftError(f"{edit} locates at the bad end too", where=bad[:10], remedy="there is nothing to find")
    start, end = (bad, good) if history.contains(good, bad) else (good, bad)
    return _first_turn(probe, start, end)


def _first_turn(probe: Probe, start: str, end: str) -> Break:
    """The first commit on the way to ``end`` at which the edit ends otherwise than at ``start``."""
    history = probe.history
    was = probe.at(start).good
    way = history.first_parents(start, end)
    fork = way[0].parents[0] if way and way[0].parents else start
    if probe.at(fork).good != was:
        raise GraftError(
            f"{probe.edit} ends at their fork as it does at {end[:10]}; it was changed on the way to {start[:10]}",
            where=f"{start[:10]} and {end[:10]} are on branches of their own",
            remedy=f"search between {fork[:10]} and {start[:10]}",
        )
    turns, now = [], was
    for commit in way:
        if (good := probe.at(commit.id).good) != now:
            turns.append(commit)
            now = good
    commit, later = turns[0], tuple(turns[1:])
    before = commit.parents[0] if commit.parents else start
    for merged in commit.parents[1:]:
        inner = history.first_parents(before, merged)
        base = inner[0].parents[0] if inner and inner[0].parents else merged
        if probe.at(merged).good != was and probe.at(base).good == was:
            return dataclasses.replace(_first_turn(probe, before, merged), merge=commit, turns=later)
    return Break(commit, None, before, probe.at(commit.id), later)


def _text(history: History, commit: str, place: In) -> tuple[str, str]:
    """A definition's file and code at a commit; nothing where no file has it."""
    tree = history.tree(commit)
    found = source_of(tree, place.path, place.definition)
    if found is not None:
        return found.source.path, "\n".join(code(scope) for scope in found.scopes)
    content = tree.read(place.path)
    if content is not None and place.definition and definition_of(place.definition.split(".")[-1]).search(content):
        return place.path, content.decode("utf-8", "replace")  # it does not parse, which is what there is to be seen
    return "/dev/null", ""


def definition_diff(history: History, place: In, before: str, after: str) -> str:
    """What happened to one definition between two commits: a diff of its own code only, empty where nothing did."""
    (old_path, old_text), (new_path, new_text) = (_text(history, commit, place) for commit in (before, after))
    name = place.definition or "module"
    lines = difflib.unified_diff(
        old_text.splitlines(), new_text.splitlines(), f"{old_path} ({name})", f"{new_path} ({name})", lineterm=""
    )
    return "\n".join(lines)


def candidates_at(history: History, edit: Named, known: str, commit: str) -> tuple[Candidate, ...]:
    """Where a lost anchor may be at ``commit``, given a commit ``known`` at which it located.

    Where the definition itself is gone, those that resemble it most are looked through.
    """
    place = edit.place
    old = source_of(history.tree(known), place.path, place.definition)
    return resembling(edit.edit, place.path, place.definition, history.tree(commit), old)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The verb's arguments."""
    text = "the upstream commit at which an edit stops to locate, and what it did to the definition"
    verb = verbs.add_parser("bisect", help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("upstream", metavar="UPSTREAM", help="its name in upstream.lock")
    verb.add_argument("--edit", required=True, metavar="E", help="pack:number, or a piece of its anchor")
    verb.add_argument("--good", required=True, metavar="A", help="a commit at which it locates")
    verb.add_argument("--bad", required=True, metavar="B", help="one at which it does not; may be the older one")
    verb.add_argument("--git-dir", type=Path, metavar="DIR", help="a clone of the upstream with its history")
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return verb


def packs_of(project: Project, upstream: Upstream, wanted: Sequence[str]) -> list[Pack]:
    """The packs that the lock names for an upstream, or those of them that are wanted.

    Raises:
        BadInput: it has none, or not that one.
    """
    for name in wanted:
        if name not in upstream.packs:
            raise BadInput(f"no pack is called {name!r}", where="--pack", remedy=f"one of: {', '.join(upstream.packs)}")
    packs = [load_pack(project.root, upstream.name, name)[0] for name in wanted or upstream.packs]
    if not any(True for pack in packs for _ in pack.each()):
        raise BadInput("it has no pack with an edit", where=upstream.name, remedy="name its packs in upstream.lock")
    return packs


def run(project: Project, options: argparse.Namespace, screen: Screen) -> int:
    """Prints the commit; 0 when it was found."""
    (upstream,) = project.lock.select([options.upstream])
    edit = choose(named(packs_of(project, upstream, ())), options.edit)
    with find(upstream, project.root, git_dir=options.git_dir) as history:
        screen.progress(f"{upstream.name}: looking for {edit}")
        found = first_breaking(history, edit, options.good, options.bad)
        diff = definition_diff(history, edit.place, found.before, found.commit.id)
        stops = not found.outcome.good
        candidates = candidates_at(history, edit, found.before, found.commit.id) if stops else ()
    screen.settle()
    if options.json:
        data = {
            "edit": str(edit),
            "anchor": edit.edit.anchor,
            **found.commit.as_dict(),
            "merge": found.merge.as_dict() if found.merge else None,
            "state": found.outcome.state.value,
            "detail": found.outcome.detail,
            "candidates": [vars(candidate) for candidate in candidates],
            "turns": [commit.as_dict() for commit in found.turns],
            "diff": diff,
        }
        print(json.dumps(data))
        return Exit.OK
    word = "stops" if stops else "starts"
    screen.say(f"{screen.paint(str(edit), 'bold')}  {_short(edit.edit)}")
    screen.say(f"  {word} to locate at {screen.paint(str(found.commit), 'bad' if stops else 'good')}")
    screen.say(f"  commit    {found.commit.id}")
    screen.say(f"  author    {found.commit.author}, {found.commit.date}")
    if found.merge:
        screen.say(f"  merged    {found.merge}")
    if stops:
        screen.say(f"  because   {found.outcome.state.value}: {found.outcome.detail}")
    for candidate in candidates:
        screen.say(f"  instead   {candidate}")
    for turn in found.turns:
        screen.say(f"  turned    again at {turn}")
    screen.say()
    screen.diff(diff or f"{edit.place.definition or edit.place.path} itself is unchanged")
    return Exit.OK
