"""At how many upstream commits the packs stand, how long it takes to find out, and what the textual tools make of them.

    python bench/survive.py [--json] [--runs N] [--upstream NAME] [--range A..B] [--git-dir DIR]

The engine's own part is timed in fresh runs, nothing remembered from one to the next; the textual tools run once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.measure import finish, median  # noqa: E402
from graft.actions import Project  # noqa: E402
from graft.bisect import packs_of  # noqa: E402
from graft.history import find  # noqa: E402
from graft.survive import assess  # noqa: E402
from graft.trials import Bench, Survival  # noqa: E402
from graft.ui import Screen  # noqa: E402

GOALS = {"rate": 1.0, "seconds": 30.0}


def bench() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--runs", type=int, default=3, help="how often the engine's part runs (default 3)")
    parser.add_argument("--upstream", default="LLaMA-Factory", metavar="NAME")
    parser.add_argument("--range", dest="span", default="v0.9.2..main", metavar="A..B")
    parser.add_argument("--git-dir", type=Path, metavar="DIR", help="a clone of the upstream with its history")
    options = parser.parse_args()
    project = Project.open(ROOT)
    (upstream,) = project.lock.select([options.upstream])
    packs = packs_of(project, upstream, ())
    results: list[Survival] = []
    for number in range(options.runs):
        with find(upstream, ROOT, git_dir=options.git_dir) as history:
            last = number == options.runs - 1
            results.append(assess(Bench(history, packs), upstream, options.span, Screen(quiet=True), textual=last))
    result = results[-1]
    took = median([one.seconds for one in results])
    if result.rate is None:
        raise SystemExit(f"{upstream.name}: in no commit of {options.span} do all definitions exist")
    figures = {
        "upstream": upstream.name,
        "range": options.span,
        "commits": len(result.judged),
        "set_aside": len(result.aside),
        "rate": result.rate,
        "textual": result.textual(),
        "textual_right": result.right(),
        "seconds": took,
        "goal": GOALS,
    }
    lines = [
        f"{upstream.name} {options.span}: {len(result.judged)} commits, {len(result.aside)} set aside",
        f"graft             {result.rate:.1%} in {took:.1f} s   (goal {GOALS['rate']:.0%} in {GOALS['seconds']:.0f} s)",
    ]
    lines += [
        f"{tool:18}{share:.1%} apply, {result.right()[tool]:.1%} land where they belong"
        for tool, share in result.textual().items()
    ]
    finish(options, figures, lines)
    return 0 if result.rate >= GOALS["rate"] and took <= GOALS["seconds"] else 1


if __name__ == "__main__":
    sys.exit(bench())
