"""``python apply.py survive NAME --range A..B``: at how many of the upstream's commits the packs stand.

Every commit of the range that touches a file in which an edit stands is tried: does every edit locate once, apply,
parse, and meet its post-conditions? A commit from before a definition existed is set aside, by name; one in which a
definition is gone that was there before counts as broken.
Blobs only are read; nothing is checked out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft import timeline
from graft.actions import Project
from graft.bisect import candidates_at, packs_of
from graft.candidates import Candidate
from graft.errors import BadInput, Exit, GraftError
from graft.fsops import digest
from graft.history import GitTree, History, find
from graft.lock import Upstream
from graft.pack import Pack
from graft.rewrite import State, rewrite
from graft.textual import TOOLS, Textual
from graft.trials import STEP, Bench, Failure, Survival, Trial
from graft.ui import Screen
from look.words import Words, add_option


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The verb's arguments."""
    text = "at how many of the upstream's commits the packs stand, beside git apply, its --3way and patch -F3"
    verb = verbs.add_parser("survive", help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("upstream", metavar="UPSTREAM", help="its name in upstream.lock")
    verb.add_argument("--range", required=True, dest="span", metavar="A..B", help="the commits after A up to B")
    verb.add_argument("--git-dir", type=Path, metavar="DIR", help="a clone of the upstream with its history")
    verb.add_argument("--pack", action="append", default=[], metavar="PACK", help="this pack only; may be repeated")
    verb.add_argument("--no-textual", action="store_true", help="leave the textual tools out")
    verb.add_argument("--html", type=Path, metavar="FILE", help="write a page with the timeline")
    add_option(verb)
    verb.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return verb


def run(project: Project, options: argparse.Namespace, screen: Screen) -> int:
    """Tries the range and prints what came of it; 1 where something breaks."""
    (upstream,) = project.lock.select([options.upstream])
    packs = packs_of(project, upstream, options.pack)
    if options.html is not None:
        _check_writable(options.html)
    if not options.no_textual:
        _check_tools()
    with find(upstream, project.root, git_dir=options.git_dir) as history:
        bench = Bench(history, packs)
        result = assess(bench, upstream, options.span, screen, textual=not options.no_textual)
        ranked = _ranked(history, bench, result)
    screen.settle()
    if options.json:
        print(json.dumps(as_dict(result, ranked)))
    else:
        show(screen, result, ranked)
    if options.html is not None:
        options.html.write_text(timeline.page(result, Words(options.lang)), encoding="utf-8")
        if not options.json:
            screen.say(f"  page      {options.html}")
    return Exit.FAILED if result.broken or not result.judged else Exit.OK


def _check_writable(page: Path) -> None:
    if page.is_dir() or not os.access(page if page.exists() else page.parent, os.W_OK):
        raise BadInput("cannot be written", where=f"--html {page}", remedy="name a file in a folder that is there")


def _check_tools() -> None:
    if shutil.which("patch") is None:
        raise BadInput(
            "there is no program `patch` to compare with",
            where="survive",
            remedy="apt-get install -y patch, or leave the textual tools out: --no-textual",
        )


def assess(bench: Bench, upstream: Upstream, span: str, screen: Screen, *, textual: bool = True) -> Survival:
    """Tries every commit of a range with the packs, and with the textual tools where they are wanted."""
    began = time.perf_counter()
    pin = bench.history.commit(upstream.commit) if bench.history.has(upstream.commit) else None
    if textual and pin is None:
        raise GraftError(
            f"the clone does not have the pin {upstream.commit[:10]}, at which the textual tools' diff is made",
            where=str(bench.history.git_dir),
            remedy="fetch it there, or leave the textual tools out: --no-textual",
        )
    trials = bench.trials(span, progress=screen.progress)
    result = Survival(upstream.name, span, pin, trials, time.perf_counter() - began)
    if textual:
        _compare(bench.history, upstream, bench.packs, result, screen)
    return result


def _compare(history: History, upstream: Upstream, packs: Sequence[Pack], result: Survival, screen: Screen) -> None:
    """Lets the textual tools try the same commits with the diff made at the pin."""
    began = time.perf_counter()
    made = rewrite(history.tree(upstream.commit), packs, parse=history.parse)
    if made.failures:
        raise GraftError(
            "the packs do not apply at the pin, so there is no diff to compare with",
            where=f"{upstream.name} {upstream.commit[:10]}",
            remedy="mend them, or leave the textual tools out: --no-textual",
        )
    with Textual(history, upstream.commit, made.contents) as textual:
        for number, trial in enumerate(result.trials, 1):
            if number % STEP == 1:
                screen.progress(f"trying the textual tools at commit {number} of {len(result.trials)}")
            for tool, files in textual.at(trial.commit.id).items():
                trial.textual[tool] = files is not None
                trial.right[tool] = files is not None and _is_right(history, packs, trial, files)
    result.tools = TOOLS
    result.textual_seconds = time.perf_counter() - began


class _Patched:
    """A commit's tree with some of its files as a tool left them."""

    def __init__(self, tree: GitTree, files: Mapping[str, bytes]) -> None:
        self.tree, self.files = tree, files

    def read(self, path: str) -> bytes | None:
        return self.files[path] if path in self.files else self.tree.read(path)

    def defining(self, name: str) -> list[str]:
        return self.tree.defining(name)


def _is_right(history: History, packs: Sequence[Pack], trial: Trial, files: Mapping[str, bytes]) -> bool:
    """Whether every edit stands where the packs want it: the very bytes that they make, or found in place by them."""
    if trial.digests == {path: digest(content) for path, content in files.items()}:
        return True
    try:
        made = rewrite(_Patched(history.tree(trial.commit.id), files), packs, parse=history.parse)
    except GraftError:  # what the tool made cannot even be read as Python, or the edits fight in it
        return False
    return not made.failures and all(outcome.state is State.ALREADY for outcome in made.outcomes)


Ranked = dict[str, tuple[Candidate, ...]]


def _ranked(history: History, bench: Bench, result: Survival) -> list[Ranked]:
    """For each stretch the candidates for every lost edit at its first commit, going by the source at the pin."""
    by_name = {str(edit): edit for edit in bench.edits}
    found = []
    for stretch in result.stretches():
        own: Ranked = {}
        for failure in stretch.failures:
            if failure.edit in by_name and result.pin is not None:
                edit = by_name[failure.edit]
                own[failure.edit] = candidates_at(history, edit, result.pin.id, stretch.first.commit.id)
        found.append(own)
    return found


def as_dict(result: Survival, ranked: Sequence[Ranked]) -> dict[str, Any]:
    """The result as plain data; ``rate`` is 0 to 1, ``seconds`` is the engine's own part."""
    return {
        "upstream": result.upstream,
        "range": result.span,
        "rate": result.rate,
        "commits": len(result.judged),
        "set_aside": [
            {
                **trial.commit.as_dict(),
                "missing": list(trial.missing),
                "failures": [_plain(one) for one in trial.failures],
            }
            for trial in result.aside
        ],
        "broken": [
            {**trial.commit.as_dict(), "failures": [_plain(failure) for failure in trial.failures]}
            for trial in result.broken
        ],
        "stretches": [
            {
                "first": stretch.first.commit.as_dict(),
                "last": stretch.last.commit.as_dict(),
                "commits": stretch.commits,
                "failures": [
                    {**_plain(failure), "candidates": [vars(one) for one in own.get(failure.edit, failure.candidates)]}
                    for failure in stretch.failures
                ],
            }
            for stretch, own in zip(result.stretches(), ranked, strict=True)
        ],
        "moved": sorted({f"{old} -> {new}" for trial in result.trials for old, new in trial.moved}),
        "textual": result.textual(),
        "textual_right": result.right(),
        "seconds": round(result.seconds, 2),
        "textual_seconds": round(result.textual_seconds, 2),
    }


def _plain(failure: Failure) -> dict[str, str]:
    return {key: value for key, value in vars(failure).items() if key != "candidates"}


def show(screen: Screen, result: Survival, ranked: Sequence[Ranked]) -> None:
    """The result for people: the rate, the others', what broke and what was set aside."""
    judged, broken, aside = result.judged, result.broken, result.aside
    kind = "bad" if broken or not judged else "good"
    name = screen.paint(result.upstream, "bold")
    touching = sum(trial.touches for trial in result.trials)
    only = "" if touching else ": its last commit stands for all"
    screen.say(f"{name}  {result.span}, {touching or 'no'} commits touch the packs' files{only}")
    rate = "no commit to judge" if result.rate is None else f"{result.rate:.1%}"
    screen.say(
        f"  {'graft':18}{screen.paint(rate, kind)}  {len(judged) - len(broken)} of {len(judged)} commits where the"
        f" definitions exist, {result.seconds:.1f} s"
    )
    right = result.right()
    for tool, share in result.textual().items():
        applied = sum(trial.textual[tool] for trial in judged)
        screen.say(
            f"  {tool:18}{share:.1%}  {applied} of {len(judged)} apply; {right[tool]:.1%} land where they belong"
        )
    for path in sorted({f"{old} -> {new}" for trial in result.trials for old, new in trial.moved}):
        screen.say(f"  moved     {path}")
    for stretch, own in zip(result.stretches(), ranked, strict=True):
        more = f", to {stretch.last.commit} ({stretch.commits} commits)" if stretch.commits > 1 else ""
        screen.say(f"  {screen.paint('breaks', 'bad')}    {stretch.first.commit}{more}")
        for failure in stretch.failures:
            screen.say(f"            {failure.path} {failure.definition}".rstrip())
            screen.say(f"            {failure}")
            for candidate in own.get(failure.edit, failure.candidates):
                screen.say(f"              {candidate}")
    if aside:
        screen.say(f"  set aside {len(aside)} commits from before a definition existed:")
        for name, count in sorted(Counter(name for trial in aside for name in trial.missing).items()):
            own_trials = [trial for trial in aside if name in trial.missing]
            screen.say(f"            {name}: {count}, {own_trials[0].commit.day} to {own_trials[-1].commit.day}")
