"""How often the ranking names what became of a lost anchor, on what the upstreams really changed.

    python bench/candidates.py [--json] [--git-dir NAME=DIR ...] [--since DATE] [--until DATE]

A statement that stood once in a function and is gone from its next version is a broken anchor. What became of it no
history says; ``bench/breaks.py`` establishes it in ways that have figures of their own:

*framed*: the statements above and below it are the same in both versions, stand once in each, and have one statement
between them: that one is the answer, however little it resembles the old. No alignment and no likeness is used.
*bound*: it alone assigned some variables, and one new statement alone assigns the same ones. Place is not used.
*known*: by one of these two, and not contradicted by the other.
*diff*: the diff of the function's statements pairs the two one for one, and at least half of their tokens are the same
(below that it pairs whatever stands at one place), or a quarter (*diff_wide*). The weakest truth, kept to compare with
earlier figures: ``rank`` aligns by the same diff and scores the same likeness. ``diff_wrong`` counts its answers that
the ways above contradict.

``lost`` counts the broken anchors and ``known`` has those with an answer; the others were deleted, split or rewritten,
or are not told from their neighbours, and nothing is measured on them. ``contradicted`` have two answers. The same
change made in many places counts once.

*consecutive*: the answer is sought in the very next version, by the anchor alone. *apart*: the oldest version that had
the old statement stands for the pin, the newest that has the new one for the release that a pack is carried to. There
``rank`` may also know the source at the pin (*pin*). Breaks with no versions but the consecutive ones are left out:
there ``rank``, which places the anchor by the same neighbours, would be told the answer. *blind* is *pin* without the
resemblance by which the answer was established: no variables for bound, no place for framed (only that a statement
which stood there before is no successor).

*renamed* and *moved*: a function disappears, and one of another name (another file, under the same name) has at least
half of its lines and is the only one that has. The anchor is a statement from its middle that stands in both, one for
each function; what is measured is that the definition is found, and the line in it.

The weights of ``rank`` were chosen on LLaMA-Factory's commits of 2025, which are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.breaks import (  # noqa: E402  # noqa: E402
    TRUTHS,
    Break,
    Mined,
    Successor,
    function,
    mine,
    parsed,
    ratio_of,
    statements_of,
    successors,
    tokens,
)
from bench.measure import machine  # noqa: E402
from graft.candidates import WEIGHTS, Old, Weights, first_line, rank  # noqa: E402
from graft.edits.base import Edit  # noqa: E402
from graft.history import History, find  # noqa: E402
from graft.lock import Lock  # noqa: E402
from graft.pack import after  # noqa: E402
from graft.shapes import flatten  # noqa: E402
from graft.source import Source  # noqa: E402
from graft.successors import resembling, source_of  # noqa: E402

NAMES = ("LLaMA-Factory", "starVLA")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Case:
    """A break, parsed."""

    edit: Edit
    old: Source
    new: Source
    line: int


Ranking = Callable[[Case], list[int]]  # lines of the new function, best first


def follow(history: History, found: Sequence[Successor]) -> dict[str, float]:
    """How often the definition comes first, and how often the line in it."""
    hits = Counter[str]()
    for one in found:
        parent = history.tree(history.commit(one.commit).parents[0])
        tree = history.tree(one.commit)
        path, name = one.old
        edit = after(one.anchor, add="grafted()", why="measured")
        near = resembling(edit, path, name, tree, source_of(parent, path, name))
        there = source_of(tree, *one.new)
        assert there is not None
        lines = [
            there.source.line_of(placed.node)
            for scope in there.scopes
            for placed in flatten(scope)
            if tokens(placed) == one.answer
        ]
        same = source_of(tree, path, name)  # under its own name elsewhere: the candidates are in that file
        at = [(each.path or (same.source.path if same else ""), each.definition or name) for each in near]
        hits["definition"] += at[:1] == [one.new]
        right = [place == one.new and each.line in lines for place, each in zip(at, near, strict=True)]
        hits["top1"] += any(right[:1])
        hits["top3"] += any(right[:3])
    return {key: round(hits[key] / len(found), 4) if found else 0.0 for key in ("top1", "top3", "definition")}


@lru_cache(maxsize=8)
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
        found.append((-ratio_of(wanted, _TOKEN.findall(first_line(statement.node))), one.new.line_of(statement.node)))
    return [line for _, line in sorted(found)]


def by_anchor(one: Case) -> list[int]:
    return [found.line for found in rank(one.edit, one.new, [function(one.new)])]


def by_pin(one: Case, weights: Weights = WEIGHTS) -> list[int]:
    old = Old(one.old, [function(one.old)])
    return [found.line for found in rank(one.edit, one.new, [function(one.new)], old=old, weights=weights)]


RANKINGS: dict[str, Ranking] = {
    "difflib": by_difflib,
    "anchor": by_anchor,
    "pin": by_pin,
    "blind framed": partial(by_pin, weights=WEIGHTS._replace(place=0.0, neighbours=0.0, parent=0.0)),
    "blind bound": partial(by_pin, weights=WEIGHTS._replace(targets=0.0)),
}
CONSECUTIVE = ("difflib", "anchor")
APART = (*CONSECUTIVE, "pin")


@cache  # the ways to know an answer share most of their breaks
def found_at(one: Break, ranking: str) -> int:
    """The place of the answer in a ranking, from 0; 3 where it is none of the first three."""
    asked = case(one)
    lines = RANKINGS[ranking](asked)[:3]
    return lines.index(asked.line) if asked.line in lines else 3


def measure(breaks: Sequence[Break], rankings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Top-1 and top-3 accuracy of each ranking; nothing where there is no break."""
    figures = {}
    for ranking in rankings if breaks else ():
        places = [found_at(one, ranking) for one in breaks]
        top1, top3 = (sum(place < most for place in places) / len(breaks) for most in (1, 3))
        figures[ranking.split()[0]] = {"top1": round(top1, 4), "top3": round(top3, 4)}
    return figures


def figures_of(mined: Mined) -> dict[str, Any]:
    """Counts and accuracies by the way in which the answer is known; ``diff`` also under the keys it always had."""
    ways: dict[str, Any] = {}
    for way in TRUTHS:
        ways[way] = {
            "breaks": len(mined.near[way]),
            "breaks_apart": len(mined.apart[way]),
            "consecutive": measure(mined.near[way], CONSECUTIVE),
            "apart": measure(mined.apart[way], [*APART, *(name for name in RANKINGS if name == f"blind {way}")]),
        }
    counts = {"lost": mined.lost, "contradicted": mined.contradicted, "diff_wrong": mined.diff_wrong}
    return {**ways["diff"], **counts, **{way: ways[way] for way in TRUTHS if way != "diff"}}


def followed(history: History, since: str, until: str) -> dict[str, Any]:
    """The figures for functions that went on under another name, or in another file under their own."""
    kinds: dict[str, list[Successor]] = {"renamed": [], "moved": []}
    for one in successors(history, since, until):
        kinds["moved" if one.old[1] == one.new[1] else "renamed"].append(one)
    return {
        kind: {"functions": len(found), "commits": len({one.commit for one in found}), **follow(history, found)}
        for kind, found in kinds.items()
    }


def show(name: str, own: dict[str, Any]) -> None:
    print(f"{name}: {own['lost']} anchors broke, {own['known']['breaks']} changes with a known answer")
    print(f"  two answers: {own['contradicted']}; answers of the diff that are wrong: {own['diff_wrong']}")
    for way in TRUTHS:
        part = own if way == "diff" else own[way]
        for kind, count in (("consecutive", part["breaks"]), ("apart", part["breaks_apart"])):
            print(f"  {way}, {kind}: {count} breaks")
            for ranking, accuracy in part[kind].items():
                print(f"    {ranking:8} top-1 {accuracy['top1']:.1%}   top-3 {accuracy['top3']:.1%}")
    for kind in ("renamed", "moved"):
        part = own[kind]
        print(
            f"  {kind}: {part['functions']} functions in {part['commits']} commits: top-1 {part['top1']:.1%}   "
            f"top-3 {part['top3']:.1%}   the definition first {part['definition']:.1%}"
        )


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
            mined = mine(history, options.since, options.until)
            if not mined.lost:
                raise SystemExit(f"{upstream.name}: no statement changed in place since {options.since}")
            own = figures_of(mined) | followed(history, options.since, options.until)
        figures[upstream.name] = own
        if not options.json:
            show(upstream.name, own)
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - began, 1), "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(bench())
