"""How often the ranking names what became of a lost anchor, on statements that the upstreams really changed.

    python bench/candidates.py [--json] [--git-dir NAME=DIR ...] [--since DATE] [--until DATE]

For each two successive versions of a function, a statement that was changed in place (by the diff of the function's
statements, one for one, alike but not the same) is a broken anchor whose answer is known. The old statement must be
unique in its function and gone from the new one; the same change made in many places counts once.

*consecutive*: the answer is sought in the very next version, by the anchor alone. *apart*: the oldest version that had
the old statement stands for the pin, the newest that has the new one for the release that a pack is carried to. There
``rank`` may also know the source at the pin; between consecutive versions that would be told the answer, which was
found by the same diff. The weights of ``rank`` were chosen on LLaMA-Factory's commits of 2025, which are left out.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import libcst as cst  # noqa: E402

from bench.measure import machine  # noqa: E402
from graft.candidates import Old, first_line, rank  # noqa: E402
from graft.edits.base import Edit  # noqa: E402
from graft.errors import GraftError  # noqa: E402
from graft.git import git_text  # noqa: E402
from graft.history import History, find  # noqa: E402
from graft.lock import Lock  # noqa: E402
from graft.pack import after  # noqa: E402
from graft.shapes import Placed, flatten  # noqa: E402
from graft.source import Definition, Source  # noqa: E402

NAMES = ("LLaMA-Factory", "starVLA")
ALIKE = (0.5, 1.0)  # a pair outside of it is another statement, or the same
_TOKEN = re.compile(r"\w+|[^\w\s]")


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


@dataclass(frozen=True)
class Case:
    """A break, parsed."""

    edit: Edit
    old: Source
    new: Source
    line: int


Ranking = Callable[[Case], list[int]]  # lines of the new function, best first


def versions(history: History, since: str, until: str) -> Iterator[tuple[str, str, str, str]]:
    """Commit, path and both blob ids of every change of a Python file, oldest first; merges are left out."""
    words = ["log", "HEAD", "--no-merges", "--reverse", "--topo-order", "--raw", "--no-abbrev", "--diff-filter=M"]
    words += ["--no-renames", "--format=commit %H", f"--since={since}"]
    words += [f"--until={until}"] if until else []
    commit = ""
    for line in git_text(words, cwd=history.git_dir).splitlines():
        if line.startswith("commit "):
            commit = line[7:]
        elif line.startswith(":") and line.endswith(".py"):
            about, _, path = line.partition("\t")
            yield commit, path, about.split()[2], about.split()[3]


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


def changed(old: Sequence[Placed], new: Sequence[Placed]) -> Iterator[tuple[int, int]]:
    """Statements that the diff pairs one for one, alike but not the same, each the other's nearest in its hunk."""
    left, right = [tokens(one) for one in old], [tokens(one) for one in new]
    before, now = Counter(left), Counter(right)
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag != "replace" or b - a != d - c:
            continue
        for i, j in zip(range(a, b), range(c, d), strict=True):
            ratio = {(x, y): _ratio(left[x], right[y]) for x in range(a, b) for y in range(c, d) if x == i or y == j}
            best = max(ratio.values())
            if not ALIKE[0] <= ratio[i, j] < ALIKE[1] or ratio[i, j] < best:
                continue
            if before[left[i]] == 1 and now[left[i]] == 0 and now[right[j]] == 1:
                yield i, j


def _ratio(left: Sequence[str], right: Sequence[str]) -> float:
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

    def oldest(self, statement: tuple[str, ...], upto: int) -> str:
        """The first version of the unbroken run up to ``upto`` that has the statement once."""
        return self.texts[_end(self.stood[statement], upto, -1)]

    def newest(self, statement: tuple[str, ...], since: int) -> str:
        return self.texts[_end(self.stood[statement], since, 1)]


def _end(present: Sequence[int], at: int, step: int) -> int:
    known = set(present)
    while at + step in known:
        at += step
    return at


def mine(history: History, since: str, until: str) -> tuple[list[Break], list[Break]]:
    """Every break of a history, oldest first: between consecutive versions, and the same breaks apart."""
    lives: dict[tuple[str, str], Life] = {}
    made: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, str, Life, int]] = {}
    cache: dict[str, dict[str, str]] = {}

    def read(blob: str) -> dict[str, str]:
        if blob not in cache:
            if len(cache) > 2000:
                cache.clear()
            cache[blob] = functions(history.blob(blob).decode("utf-8", "replace"))
        return cache[blob]

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
            for i, j in changed(own, fresh):
                anchor = anchor_for(own[i], old)
                pair = tokens(own[i]), tokens(fresh[j])
                if anchor is not None and pair not in made:
                    step = len(life.texts) - 2
                    made[pair] = f"{commit[:10]} {path} {name}", anchor, life, step
    near = [
        Break(where, anchor, life.texts[step], life.texts[step + 1], new)
        for (_, new), (where, anchor, life, step) in made.items()
    ]
    apart = [
        Break(where, anchor, life.oldest(old, step), life.newest(new, step + 1), new)
        for (old, new), (where, anchor, life, step) in made.items()
    ]
    return near, apart


def case(one: Break) -> Case:
    old, new = parsed(one.where, one.old), parsed(one.where, one.new)
    assert old is not None
    assert new is not None
    (line,) = (new.line_of(own.node) for own in statements_of(new) if tokens(own) == one.answer)
    return Case(after(one.anchor, add="grafted()", why="measured"), old, new, line)


def by_difflib(one: Case) -> list[int]:
    wanted = _TOKEN.findall(one.edit.anchor.removesuffix(" ..."))
    found = []
    for statement in statements_of(one.new):
        found.append((-_ratio(wanted, _TOKEN.findall(first_line(statement.node))), one.new.line_of(statement.node)))
    return [line for _, line in sorted(found)]


def by_anchor(one: Case) -> list[int]:
    return [found.line for found in rank(one.edit, one.new, [function(one.new)])]


def by_pin(one: Case) -> list[int]:
    old = Old(one.old, [function(one.old)])
    return [found.line for found in rank(one.edit, one.new, [function(one.new)], old=old)]


def measure(breaks: Sequence[Break], rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
    """Top-1 and top-3 accuracy of each ranking."""
    first, third = Counter[str](), Counter[str]()
    for one in breaks:
        parsed_one = case(one)
        for name, ranking in rankings.items():
            lines = ranking(parsed_one)[:3]
            first[name] += parsed_one.line in lines[:1]
            third[name] += parsed_one.line in lines
    count = len(breaks)
    return {name: {"top1": round(first[name] / count, 4), "top3": round(third[name] / count, 4)} for name in rankings}


CONSECUTIVE: dict[str, Ranking] = {"difflib": by_difflib, "anchor": by_anchor}
APART: dict[str, Ranking] = {**CONSECUTIVE, "pin": by_pin}


def bench() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--git-dir", action="append", default=[], metavar="NAME=DIR", help="a clone with its history")
    parser.add_argument("--since", default="2026-01-01", metavar="DATE", help="leave older commits out (%(default)s)")
    parser.add_argument("--until", default="", metavar="DATE", help="and newer ones")
    options = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in options.git_dir)
    figures: dict[str, Any] = {}
    began = time.perf_counter()
    for upstream in Lock.load(ROOT).select(NAMES):
        place = Path(given[upstream.name]) if upstream.name in given else None
        with find(upstream, ROOT, git_dir=place) as history:
            near, apart = mine(history, options.since, options.until)
        if not near:
            raise SystemExit(f"{upstream.name}: no statement changed in place since {options.since}")
        own = {"consecutive": measure(near, CONSECUTIVE), "apart": measure(apart, APART)}
        figures[upstream.name] = {"breaks": len(near), **own}
        if not options.json:
            print(f"{upstream.name}: {len(near)} breaks")
            for kind, rankings in own.items():
                for name, accuracy in rankings.items():
                    print(f"  {kind:12} {name:8} top-1 {accuracy['top1']:.1%}   top-3 {accuracy['top3']:.1%}")
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - began, 1), "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(bench())
