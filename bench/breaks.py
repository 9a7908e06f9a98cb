"""What the histories of the upstreams say about broken anchors: which statements and functions became which.

Mined for ``bench/candidates.py``, which says what each way to know it means.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst

from graft.candidates import first_line
from graft.errors import GraftError
from graft.git import git_text
from graft.history import History
from graft.pack import after
from graft.shapes import Placed, flatten
from graft.source import Definition, Source

FLOORS = {"diff": 0.5, "diff_wide": 0.25}
TRUTHS = ("known", "framed", "bound", *FLOORS)
BODY = 0.5  # of the lines of two functions that are one under another name
SHORT = 4  # lines; two functions of fewer are alike by chance


@dataclass(frozen=True)
class Break:
    """A statement that changed in place.

    Attributes:
        where: commit, file and function.
        anchor: the old statement, as a pack would name it.
        old: the function as it was then (apart: its oldest version that has the old statement).
        new: the function in which the anchor is lost (apart: its newest version that has the successor).
        answer: tokens of the successor, which ``new`` has once.
    """

    where: str
    anchor: str
    old: str
    new: str
    answer: tuple[str, ...]


def changes(history: History, since: str, until: str, kinds: str) -> Iterator[tuple[str, str, str, str]]:
    """Commit, path and both blob ids of every change of a Python file, oldest first; merges are left out."""
    words = [
        "log",
        "HEAD",
        "--no-merges",
        "--reverse",
        "--topo-order",
        "--raw",
        "--no-abbrev",
        f"--diff-filter={kinds}",
    ]
    words += ["--no-renames", "--format=commit %H", f"--since={since}"]
    words += [f"--until={until}"] if until else []
    commit = ""
    for line in git_text(words, cwd=history.git_dir).splitlines():
        if line.startswith("commit "):
            commit = line[7:]
        elif line.startswith(":") and line.endswith(".py"):
            about, _, path = line.partition("\t")
            yield commit, path, about.split()[2], about.split()[3]


def versions(history: History, since: str, until: str) -> Iterator[tuple[str, str, str, str]]:
    """The changes of files that are there before and after."""
    yield from changes(history, since, until, "M")


def functions(text: str) -> dict[str, str]:
    """The source of every function by qualified name; none where it is not unique or the file does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    lines = text.splitlines(keepends=True)
    found: dict[str, str] = {}
    twice: set[str] = set()

    def walk(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = prefix + node.name
                if not isinstance(node, ast.ClassDef):
                    twice.update({name} & found.keys())
                    found[name] = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
                else:
                    walk(node.body, name + ".")

    walk(tree.body, "")
    return {name: text for name, text in found.items() if name not in twice}


class Reader:
    """The functions of blobs, each read once."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._known: dict[str, dict[str, str]] = {}

    def functions(self, blob: str) -> dict[str, str]:
        if len(self._known) > 2000:
            self._known.clear()
        if blob not in self._known:
            absent = not blob.strip("0")
            self._known[blob] = {} if absent else functions(self._history.blob(blob).decode("utf-8", "replace"))
        return self._known[blob]


def parsed(name: str, text: str) -> Source | None:
    try:
        return Source(name, text.encode())
    except GraftError:
        return None


def function(source: Source) -> Definition:
    """The one function of a text."""
    found = source.module.body[0]
    assert isinstance(found, cst.FunctionDef)
    return found


def statements_of(source: Source) -> list[Placed]:
    return flatten(function(source))


def tokens(statement: Placed) -> tuple[str, ...]:
    return statement.shape.tokens


def by_diff(old: Sequence[Placed], new: Sequence[Placed]) -> Iterator[tuple[int, int, float]]:
    """Statements that the diff pairs one for one, not the same, each the other's nearest in its hunk; how alike."""
    left, right = [tokens(one) for one in old], [tokens(one) for one in new]
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "replace" or b - a != d - c:
            continue
        ratio = {(x, y): ratio_of(left[x], right[y]) for x in range(a, b) for y in range(c, d)}
        for i, j in zip(range(a, b), range(c, d), strict=True):
            if 1.0 > ratio[i, j] == max(value for (x, y), value in ratio.items() if x == i or y == j):
                yield i, j, ratio[i, j]


def by_frame(old: Sequence[Placed], new: Sequence[Placed]) -> Iterator[tuple[int, int]]:
    """Statements between the same two statements, which stand once in each version; the function's ends count too."""
    left, right = ([(), *map(tokens, version), ("",)] for version in (old, new))
    before, now = Counter(left), Counter(right)
    place = {statement: at for at, statement in enumerate(right)}
    for at in range(1, len(left) - 1):
        above, below = left[at - 1], left[at + 1]
        if all(count[one] == 1 for count in (before, now) for one in (above, below)):
            there = place[above] + 1
            if place[below] == there + 1:
                yield at - 1, there - 1


def by_binding(old: Sequence[Placed], new: Sequence[Placed]) -> Iterator[tuple[int, int]]:
    """Statements that alone, in their version, assign the same variables."""
    left, right = ([one.shape.targets for one in version] for version in (old, new))
    before, now = Counter(left), Counter(right)
    for i, bound in enumerate(left):
        if bound and before[bound] == 1 and now[bound] == 1:
            yield i, right.index(bound)


def broken(old: Sequence[Placed], new: Sequence[Placed]) -> list[int]:
    """The statements that stood once and are gone."""
    left, right = Counter(map(tokens, old)), Counter(map(tokens, new))
    return [at for at, one in enumerate(old) if left[tokens(one)] == 1 and tokens(one) not in right]


def answers(old: Sequence[Placed], new: Sequence[Placed]) -> dict[str, dict[int, int]]:
    """For each way to know it, what became of the broken statements; the answer stands once and did not before."""
    lost, left, right = set(broken(old, new)), set(map(tokens, old)), Counter(map(tokens, new))
    fresh = {at for at, one in enumerate(new) if right[tokens(one)] == 1 and tokens(one) not in left}
    found = {"framed": list(by_frame(old, new)), "bound": list(by_binding(old, new))}
    aligned = list(by_diff(old, new))
    found |= {way: [(i, j) for i, j, alike in aligned if alike >= floor] for way, floor in FLOORS.items()}
    return {way: {i: j for i, j in pairs if i in lost and j in fresh} for way, pairs in found.items()}


def agreed(found: dict[str, dict[int, int]]) -> tuple[dict[str, dict[int, int]], set[int]]:
    """The answers without those on which the two independent ways differ, and the statements of these."""
    framed, bound = found["framed"], found["bound"]
    differ = {i for i in framed.keys() & bound.keys() if framed[i] != bound[i]}
    sure = {way: {i: j for i, j in found[way].items() if i not in differ} for way in ("framed", "bound")}
    return {**found, **sure, "known": {**sure["framed"], **sure["bound"]}}, differ


def ratio_of(left: Sequence[str], right: Sequence[str]) -> float:
    return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()


def anchor_for(statement: Placed, source: Source) -> str | None:
    """A statement as a pack would name it: whole, a compound one by its head; None where that does not find it."""
    text = first_line(statement.node)
    text += " ..." if text.endswith(":") else ""
    try:
        edit = after(text, add="grafted()", why="measured")
    except GraftError:  # a head over several lines, or ``elif``: nobody writes such an anchor
        return None
    return text if edit.find(source, [function(source)]).splices else None


@dataclass
class Life:
    """A function over its history: every version's text, and in which versions a statement stood, once."""

    texts: list[str]
    stood: dict[tuple[str, ...], list[int]]

    def add(self, text: str, statements: Sequence[Placed]) -> None:
        counts = Counter(tokens(one) for one in statements)
        for statement, count in counts.items():
            if count == 1:
                self.stood.setdefault(statement, []).append(len(self.texts))
        self.texts.append(text)

    def apart(self, old: tuple[str, ...], new: tuple[str, ...], step: int) -> tuple[int, int] | None:
        """The first version of the unbroken run up to ``step`` with ``old`` once, and the last after it with ``new``.

        None where these are the two consecutive texts, or where ``old`` is back, so that nothing is lost.
        """
        first, last = _end(self.stood[old], step, -1), _end(self.stood[new], step + 1, 1)
        same = (self.texts[first], self.texts[last]) == (self.texts[step], self.texts[step + 1])
        return None if same or last in self.stood[old] else (first, last)


def _end(present: Sequence[int], at: int, step: int) -> int:
    known = set(present)
    while at + step in known:
        at += step
    return at


@dataclass
class Mined:
    """The breaks of a history.

    Attributes:
        near: by the way in which the answer is known, between consecutive versions.
        apart: those of them that have other versions further apart.
        lost: how many different anchors broke.
        contradicted: how many have two answers by independent ways, which counts as none.
        diff_wrong: how many answers of the diff are not the known ones.
    """

    near: dict[str, list[Break]]
    apart: dict[str, list[Break]]
    lost: int
    contradicted: int
    diff_wrong: int


Pair = tuple[tuple[str, ...], tuple[str, ...]]


def mine(history: History, since: str, until: str) -> Mined:
    """Every break of a history, oldest first; the same change in several places is the first of them."""
    lives: dict[tuple[str, str], Life] = {}
    made: dict[str, dict[Pair, tuple[str, str, Life, int]]] = {way: {} for way in TRUTHS}
    lost: set[tuple[str, ...]] = set()
    contradicted: set[tuple[str, ...]] = set()
    wrong: set[Pair] = set()
    read = Reader(history).functions
    for commit, path, before, now in versions(history, since, until):
        left, right = read(before), read(now)
        for name in sorted(left.keys() & right.keys()):
            if left[name] == right[name]:
                continue
            old, new = parsed(name, left[name]), parsed(name, right[name])
            if old is None or new is None:
                continue
            own, fresh = statements_of(old), statements_of(new)
            life = lives.get((path, name))
            if life is None or life.texts[-1] != left[name]:  # new here, or it changed on another branch
                life = lives[path, name] = Life([], {})
                life.add(left[name], own)
            life.add(right[name], fresh)
            anchors = {i: anchor for i in broken(own, fresh) if (anchor := anchor_for(own[i], old)) is not None}
            found, differ = agreed(answers(own, fresh))
            lost |= {tokens(own[i]) for i in anchors}
            contradicted |= {tokens(own[i]) for i in anchors.keys() & differ}
            for way, pairs in found.items():
                for i in anchors.keys() & pairs.keys():
                    pair = tokens(own[i]), tokens(fresh[pairs[i]])
                    where = f"{commit[:10]} {path} {name}"
                    made[way].setdefault(pair, (where, anchors[i], life, len(life.texts) - 2))
                    if way == "diff" and found["known"].get(i, pairs[i]) != pairs[i]:
                        wrong.add(pair)
    mined = Mined({}, {}, len(lost), len(contradicted), len(wrong))
    for way, breaks in made.items():
        mined.near[way], mined.apart[way] = [], []
        for (old_one, new_one), (where, anchor, life, step) in breaks.items():
            mined.near[way].append(Break(where, anchor, life.texts[step], life.texts[step + 1], new_one))
            far = life.apart(old_one, new_one, step)
            if far is not None:
                texts = [life.texts[at] for at in far]
                mined.apart[way].append(Break(where, anchor, texts[0], texts[1], new_one))
    return mined


@dataclass(frozen=True)
class Successor:
    """A function that took the body of one that disappeared.

    Attributes:
        commit: the one that did it.
        old: path and qualified name at its parent.
        new: path and qualified name at the commit.
        anchor: a statement from the middle of the old one, as a pack would name it.
        answer: its tokens; both functions have it once.
    """

    commit: str
    old: tuple[str, str]
    new: tuple[str, str]
    anchor: str
    answer: tuple[str, ...]


def successors(history: History, since: str, until: str) -> Iterator[Successor]:
    """Every function that went on under another name or in another file."""
    read = Reader(history).functions
    for commit, group in itertools.groupby(changes(history, since, until, "AMD"), key=lambda one: one[0]):
        gone: dict[tuple[str, str], str] = {}
        come: dict[tuple[str, str], str] = {}
        for _, path, before, now in group:
            left, right = read(before), read(now)
            gone |= {(path, name): left[name] for name in left.keys() - right.keys()}
            come |= {(path, name): right[name] for name in right.keys() - left.keys()}
        for old, new in same_body(gone, come):
            picked = middle(gone[old], come[new])
            if picked is not None:
                yield Successor(commit, old, new, *picked)


def same_body(gone: dict[Any, str], come: dict[Any, str]) -> Iterator[tuple[Any, Any]]:
    """The functions that have most lines in common, each the other's only match."""
    lines = {key: body_of(text) for key, text in (*gone.items(), *come.items())}
    alike: dict[tuple[Any, Any], float] = {}
    for old, new in itertools.product(gone, come):
        total = lines[old].total() + lines[new].total()
        share = 2 * (lines[old] & lines[new]).total() / total if total else 0.0
        if share >= BODY and min(lines[old].total(), lines[new].total()) >= SHORT:
            alike[old, new] = share
    for old, new in sorted(alike):
        if sum(old == one for one, _ in alike) == 1 and sum(new == one for _, one in alike) == 1:
            yield old, new


def body_of(text: str) -> Counter[str]:
    """The lines below the head, without white space and comments of their own."""
    lines = [line.strip() for line in text.splitlines()]
    start = next((at for at, line in enumerate(lines) if line.endswith(":")), 0) + 1
    return Counter(line for line in lines[start:] if line and not line.startswith("#"))


def middle(old_text: str, new_text: str) -> tuple[str, tuple[str, ...]] | None:
    """Of the statements that stand once in both the one nearest to the middle that can be an anchor."""
    old, new = parsed("old", old_text), parsed("new", new_text)
    if old is None or new is None:
        return None
    own, fresh = statements_of(old), statements_of(new)
    before, now = Counter(map(tokens, own)), Counter(map(tokens, fresh))
    both = [at for at, one in enumerate(own) if before[tokens(one)] == now[tokens(one)] == 1]
    for at in sorted(both, key=lambda at: abs(at - len(own) / 2)):
        anchor = anchor_for(own[at], old)
        if anchor is not None:
            return anchor, tokens(own[at])
    return None
