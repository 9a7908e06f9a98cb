"""``apply.py upgrade NAME --to REF``: the arguments and the words; what it does is in ``graft/upgrade.py``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from graft.actions import Options, Project
from graft.errors import Exit
from graft.ui import Screen
from graft.upgrade import Upgrade, upgrade
from graft.verbs.words import add_common, mirror_and_offline

NAME = "upgrade"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = add_common(
        verbs, NAME, "try every pack on another commit of an upstream, and move the pin there if all hold"
    )
    verb.add_argument("upstream", metavar="UPSTREAM", help="a name as in upstream.lock")
    verb.add_argument(
        "--to",
        metavar="REF",
        help="a branch, a tag or a full commit id; without it the checkout follows a lock that has moved on",
    )
    verb.add_argument("--dry-run", action="store_true", help="try and report only")
    verb.add_argument("--git-dir", type=Path, metavar="DIR", help="a clone with the history, to name a breaking commit")
    mirror_and_offline(verb)


def run(project: Project, options: argparse.Namespace, screen: Screen) -> int:
    (upstream,) = project.lock.select([options.upstream])
    chosen = Options(mirror=options.mirror, offline=options.offline, git_dir=options.git_dir, progress=screen.progress)
    done = upgrade(project, upstream, options.to, chosen, dry_run=options.dry_run)
    screen.settle()
    if options.json:
        print(json.dumps(as_dict(done)))
    else:
        show(screen, done, dry_run=options.dry_run)
    return min((error.exit_code for error in done.report.errors), default=Exit.OK)


def as_dict(done: Upgrade) -> dict[str, Any]:
    target = vars(done.target) if done.target is not None else None
    edits = [trial.as_dict() for trial in done.trials]
    return {
        "ok": not done.report.errors,
        "moved": done.moved,
        "target": target,
        "edits": edits,
        **done.report.as_dict(),
    }


def show(screen: Screen, done: Upgrade, *, dry_run: bool) -> None:
    """Every edit, what to read again, and what to run next."""
    report, target = done.report, done.target
    assert target is not None
    screen.say(f"{screen.paint(report.name, 'bold')}  {target.ref} is {target.commit[:10]}, from {target.source}")
    for trial in done.trials:
        outcome = trial.outcome
        good = "good" if trial.verdict in ("applied", "moved") else "bad"
        at = f"{outcome.path} {outcome.definition or ''}".rstrip()
        kind = "warn" if trial.verdict in ("moved", "upstream has it now") else good
        screen.say(f"  {screen.paint(trial.verdict.ljust(12), kind)} {trial.edit}: {outcome.verb}  {at}")
        if outcome.moved_from:
            screen.say(f"               was {outcome.moved_from}")
        if trial.verdict == "upstream has it now":
            screen.say(f"               retire the edit at {outcome.declared}")
    around = {trial.around: trial.outcome for trial in done.trials if trial.around}
    if around:
        screen.say("\nupstream changed these definitions around edits that still match; read them again:")
    for text in around:
        screen.diff(text)
    for error in report.errors:
        screen.say(f"  {screen.paint('error', 'bad')}  " + str(error).replace("\n", "\n         "))
    for note in report.notes:
        screen.say(f"  note   {note}")
    for trial in done.trials:
        if trial.first:
            screen.say(f"  {trial.edit}: {trial.outcome.verb} {trial.outcome.anchor!r} was broken by {trial.first}")
    if report.errors:
        screen.say("\nnothing was changed")
    elif dry_run:
        to = f" --to {target.ref}" if target.commit != report.commit else ""
        screen.say(f"\nall hold; python apply.py upgrade {report.name}{to} moves the {'pin' if to else 'checkout'}")
    else:
        screen.say(f"\nthe pin is at {target.commit}; {len(report.wrote)} files of the checkout were written")
        screen.say("next: make test-upstreams, then git add upstream.lock " + report.path + " && git commit")
