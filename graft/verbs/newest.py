"""``apply.py newest``: the newest upstreams against the packs, for a scheduled run, as Markdown fit for an issue."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from graft.actions import Options, Project
from graft.errors import Exit, GraftError
from graft.lock import Upstream
from graft.ui import Screen
from graft.upgrade import Upgrade, upgrade
from graft.verbs.upgrade import as_dict
from graft.verbs.words import add_common, mirror_and_offline

NAME = "newest"


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = add_common(
        verbs, NAME, "try every pack on the newest commit of its upstream; exit 4 where one does not hold"
    )
    verb.add_argument("upstreams", nargs="*", metavar="UPSTREAM", help="names as in upstream.lock; all that have packs")
    verb.add_argument("--to", default="HEAD", metavar="REF", help="another branch than the upstream's default one")
    verb.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary there")
    verb.add_argument("--git-dir", type=Path, metavar="DIR", help="a clone with the history, to name breaking commits")
    mirror_and_offline(verb)


def run(project: Project, options: argparse.Namespace, screen: Screen) -> int:
    chosen = Options(mirror=options.mirror, offline=options.offline, git_dir=options.git_dir, progress=screen.progress)
    found: list[tuple[Upstream, Upgrade | GraftError]] = []
    for upstream in project.lock.select(options.upstreams):
        if not upstream.packs and not options.upstreams:
            continue
        try:
            found.append((upstream, upgrade(project, upstream, options.to, chosen, dry_run=True)))
        except GraftError as error:
            found.append((upstream, error))
    screen.settle()
    summary = "\n".join(line for upstream, done in found for line in markdown(upstream, done))
    if options.markdown is not None:
        options.markdown.write_text(summary + "\n", encoding="utf-8")
    if options.json:
        data = {
            upstream.name: {"ok": False, **done.as_dict()} if isinstance(done, GraftError) else as_dict(done)
            for upstream, done in found
        }
        print(json.dumps({"ok": all(entry["ok"] for entry in data.values()), "upstreams": data}))
    else:
        screen.say(summary)
    return exit_code([done for _, done in found])


def exit_code(found: list[Upgrade | GraftError]) -> int:
    unreachable = [done for done in found if isinstance(done, GraftError)]
    if any(isinstance(done, Upgrade) and done.report.errors for done in found):
        return Exit.DRIFT
    return min((error.exit_code for error in unreachable), default=Exit.OK)


def markdown(upstream: Upstream, done: Upgrade | GraftError) -> Iterator[str]:
    """One upstream's section: a line where all hold, else each edit that does not, with its candidates."""
    if isinstance(done, GraftError):
        yield f"## {upstream.name}: could not be tried\n\n```\n{done}\n```\n"
        return
    assert done.target is not None
    commit, lost = done.target.commit[:10], [trial for trial in done.trials if not trial.outcome.good]
    if not done.report.errors:
        changed = len({trial.outcome.definition for trial in done.trials if trial.around})
        yield f"## {upstream.name} at {commit}: all {len(done.trials)} edits hold\n"
        for trial in done.trials:
            if trial.verdict != "applied":
                moved = f" from `{trial.outcome.moved_from}`" if trial.outcome.moved_from else ""
                yield f"- {trial.verdict}{moved}: `{trial.outcome.anchor}` in `{trial.outcome.path}`"
        if changed:
            yield f"- upstream changed {changed} definitions around edits that still match: read them again"
            yield f"\n`python apply.py upgrade {upstream.name} --to {done.target.commit} --dry-run` shows them."
        yield from (f"- {note}" for note in done.report.notes)
        return
    yield f"## {upstream.name} at {commit}: {len(lost)} of {len(done.trials)} edits do not hold\n"
    for trial in lost:
        outcome = trial.outcome
        yield f"### {trial.edit}: {outcome.verb} is {trial.verdict}\n"
        place = f"`{outcome.path}` `{outcome.definition or 'module'}`"
        yield f"- anchor `{outcome.anchor}`, in {place}, declared at {outcome.declared}"
        yield f"- {outcome.detail}"
        if trial.first:
            yield f"- broken by {trial.first}"
        for candidate in outcome.candidates:
            yield f"- candidate, {candidate.score:.0%}: line {candidate.line} `{candidate.code}`"
        yield ""
    for error in done.report.errors:
        if not any(trial.outcome.detail and trial.outcome.detail in error.what for trial in lost):
            yield f"```\n{error}\n```\n"
    yield from (f"- {note}" for note in done.report.notes)
