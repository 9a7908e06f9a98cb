"""The verbs that graft and take the graft out again. One upstream's failure never stops the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from graft import fetch, flock, git, pushguard, sources
from graft.checkout import Checkout
from graft.errors import BadInput, GraftError, Unreachable
from graft.ledger import Ledger
from graft.lock import Lock, Upstream
from graft.merge import diff as line_diff
from graft.plan import Plan, load_packs, plan
from graft.report import Report
from graft.transaction import Recovered, commit, recover

ATTEMPTS = "fetch.json"
_PATIENCE = 15.0  # seconds that a source may take to say that it is there


@dataclass
class Options:
    """What a user asks for beside the verb; empty ``packs`` means all of the lock."""

    packs: Sequence[str] = ()
    mirror: Path | None = None
    offline: bool = False
    link: bool | None = None
    reach: bool = False
    git_dir: Path | None = None
    progress: Callable[[str], None] = field(default=lambda text: None)


@dataclass
class Project:
    """A checkout of graft itself: the lock and the folders beside it."""

    root: Path
    lock: Lock

    @classmethod
    def open(cls, root: Path) -> Project:
        return cls(root, Lock.load(root))


def report_for(upstream: Upstream) -> Report:
    return Report(upstream.name, upstream.path, upstream.commit, upstream.tree, upstream.license)


@contextmanager
def at_work(path: Path, gitdir: Path, report: Report) -> Iterator[None]:
    """Holds the checkout's lock, after finishing or undoing what a killed command left."""
    with flock.held(gitdir):
        found = recover(path, gitdir)
        if found is not None:
            report.notes.append(interrupted(found))
            if found.kept:
                report.warnings.append(f"left alone, since you changed them meanwhile: {', '.join(found.kept)}")
        yield


def interrupted(found: Recovered) -> str:
    return f"an interrupted command was {found.outcome}: {', '.join(found.files) or 'no file was at stake'}"


def unfinished(gitdir: Path) -> bool:
    """Whether a killed command left something in this git directory, or one is at work there now."""
    home = gitdir / "graft"
    staging = home / "staging"
    journals = (home / "journal.json", home / "journal.back.json")
    return any(map(os.path.lexists, journals)) or (staging.is_dir() and any(staging.iterdir()))


def standing(project: Project, upstream: Upstream, report: Report) -> Checkout | None:
    """The checkout that is there, None where there is none; nothing is fetched.

    Raises:
        GraftError: it is not at the pin.
    """
    path = project.root / upstream.path
    if not _is_there(path):
        _say_why_absent(project, upstream, report)
        return None
    try:
        found = sources.obtain(upstream, project.root, offline=True, progress=lambda text: None)
    except GraftError as error:
        raise _pin_moved(project, upstream) or error from error
    return _opened(project, upstream, found, report)


def _is_there(path: Path) -> bool:
    """Whether anything is where a checkout belongs; a link to anywhere and a file count, an empty folder does not."""
    return os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))


def carried(project: Project, upstream: Upstream) -> tuple[str, ...]:
    """The packs that a checkout carries, those that the lock has dropped included; none where there is no checkout."""
    ledger = _memory(project, upstream)
    return tuple(ledger.packs) if ledger is not None else ()


def as_grafted(project: Project, upstream: Upstream) -> Upstream:
    """The upstream at the pin for which its checkout was grafted, which the lock may have left since."""
    ledger = _memory(project, upstream)
    if ledger is None or not ledger.packs:
        return upstream
    return replace(upstream, commit=ledger.commit, tree=ledger.tree)


def _memory(project: Project, upstream: Upstream) -> Ledger | None:
    path = project.root / upstream.path
    try:
        return Ledger.load(git.git_dir(path)) if (path / ".git").exists() else None
    except GraftError:  # the verb itself opens the checkout and says what is wrong with it
        return None


def _pin_moved(project: Project, upstream: Upstream) -> GraftError | None:
    """The error for a checkout that carries a graft on an earlier pin; None when that is not what is wrong with it."""
    ledger = _memory(project, upstream)
    path = project.root / upstream.path
    if ledger is None or not ledger.packs or ledger.commit == upstream.commit:
        return None
    if git.position(path).head != ledger.commit:
        return None
    return GraftError(
        f"it carries the graft on commit {ledger.commit}, the lock pins {upstream.commit} now; nothing was changed",
        where=str(path),
        remedy=f"python apply.py upgrade {upstream.name} takes the checkout there, with your own edits in it",
    )


def _opened(project: Project, upstream: Upstream, found: sources.Obtained, report: Report) -> Checkout:
    report.source = found.source
    report.tree_proven = True
    report.tried = [str(attempt) for attempt in found.tried]
    if found.warning:
        report.warnings.append(found.warning)
    return Checkout(project.root, found.path, found.git_dir, upstream)


def ask_source(project: Project, upstream: Upstream, options: Options) -> None:
    """Asks the URL of an upstream that is not fetched whether it answers, and keeps the answer for ``status``."""
    if _is_there(project.root / upstream.path):
        return
    remote = fetch.published(upstream, project.root)
    options.progress(f"{upstream.name}: {remote.shown}")
    try:
        asked = ["ls-remote", "--exit-code", "--", remote.address, "HEAD"]
        git.watch(asked, cwd=project.root, progress=lambda text: None, silence=_PATIENCE)
    except GraftError as error:
        tried = [sources.Attempt(remote.shown, error.what)]
        _remember_attempt(project, upstream, sources.unreachable(upstream, tried, offline=False))
    else:
        _remember_attempt(project, upstream, None)


def _say_why_absent(project: Project, upstream: Upstream, report: Report) -> None:
    last = _attempts(project).get(upstream.name)
    command = f"python apply.py {upstream.name}"
    if last is None or last["pin"] != [upstream.url, upstream.commit]:
        report.state = "absent"
        report.notes.append(f"not fetched yet: {command}")
        return
    report.state = "unreachable"
    report.tried = last["tried"]
    report.notes.append(f"could not be fetched on {last['when'][0]}; {command} tries again")
    report.notes += [f"what helps: {remedy.removeprefix('or ')}" for remedy in last["remedy"]]


def own_gitdir(project: Project) -> Path | None:
    """The git directory of the project itself; None for a release that was unpacked from an archive."""
    place = project.root / ".git"
    if place.is_dir():
        return place
    return git.git_dir(project.root) if place.exists() else None


def _attempts_file(project: Project) -> Path | None:
    gitdir = own_gitdir(project)
    return None if gitdir is None else gitdir / "graft" / ATTEMPTS  # without one there is no need to remember


def _attempts(project: Project) -> dict[str, dict[str, list[str]]]:
    file = _attempts_file(project)
    if file is None or not file.is_file():
        return {}
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise GraftError("the memory of failed fetches is damaged", where=str(file), remedy=f"rm {file}") from error
    wanted = {"pin", "tried", "remedy", "when"}
    return {name: last for name, last in data.items() if wanted <= set(last)} if isinstance(data, dict) else {}


def _remember_attempt(project: Project, upstream: Upstream, failure: Unreachable | None) -> None:
    """Keeps why an upstream could not be fetched, so that ``status`` can name it; forgets it once it is there."""
    file = _attempts_file(project)
    known = _attempts(project)
    if file is None or (failure is None and upstream.name not in known):
        return
    known.pop(upstream.name, None)
    if failure is not None:
        tried = failure.what.split("\n  - ")[1:]
        known[upstream.name] = {
            "pin": [upstream.url, upstream.commit],
            "tried": ["; ".join(text.splitlines()) for text in tried],
            "remedy": failure.remedy.split("; "),
            "when": [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())],
        }
    file.parent.mkdir(exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(fresh, file)


def apply(project: Project, upstream: Upstream, options: Options, *, write: bool = True) -> Report:
    """Fetches an upstream if need be and makes its checkout carry the packs.

    Args:
        write: False plans and reports only.
    """
    report = report_for(upstream)
    try:
        wanted = _check_packs(upstream, options.packs)
        load_packs(project.root, upstream, wanted or upstream.packs)  # a bad pack is said before anything is fetched
        checkout = _obtain(project, upstream, options, report) if write else standing(project, upstream, report)
        if checkout is None:
            if wanted or upstream.packs:
                report.state = "drifted"
            return report
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
            names = [*(still_locked(checkout, report) if wanted else ()), *(wanted or upstream.packs)]
            carry_out(checkout, _plan(project, checkout, names, options), report, write=write)
            if write:
                report.notes += pushguard.guard(checkout.path).notes
    except GraftError as error:
        report.add_error(error)
    return settled(report)


def revert(project: Project, upstream: Upstream, options: Options) -> Report:
    """Takes the packs (all, or those named) out of a checkout; the user's own edits stay.

    A checkout that still is at the pin which its graft was made for can be reverted after the lock has moved on.
    """
    report = report_for(upstream)
    try:
        if not options.packs:
            upstream = as_grafted(project, upstream)
            report = report_for(upstream)
        checkout = standing(project, upstream, report)
        if checkout is None:
            return report
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
            known = {*upstream.packs, *checkout.ledger.packs}
            for name in options.packs:
                if name not in known:
                    raise BadInput(f"no pack is called {name!r}", where=upstream.name, remedy=_one_of(known))
            staying = still_locked(checkout, report) if options.packs else ()
            left = [name for name in staying if name not in options.packs]
            carry_out(checkout, _plan(project, checkout, left, options), report, write=True)
    except GraftError as error:
        report.add_error(error)
    return settled(report)


def _obtain(project: Project, upstream: Upstream, options: Options, report: Report) -> Checkout:
    try:
        found = sources.obtain(
            upstream, project.root, mirror=options.mirror, offline=options.offline, progress=options.progress
        )
    except Unreachable as error:
        _remember_attempt(project, upstream, error)
        report.state = "unreachable"
        raise
    except BadInput:
        raise
    except GraftError as error:
        raise _pin_moved(project, upstream) or error from error
    _remember_attempt(project, upstream, None)
    return _opened(project, upstream, found, report)


def _check_packs(upstream: Upstream, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in upstream.packs:
            raise BadInput(f"no pack is called {name!r}", where=upstream.name, remedy=_one_of(upstream.packs))
    return list(names)


def still_locked(checkout: Checkout, report: Report) -> list[str]:
    """The packs that a checkout carries and the lock still has; the others leave, and the report says so."""
    retired = [name for name in checkout.ledger.packs if name not in checkout.upstream.packs]
    if retired:
        report.notes.append(f"taken out too, as the lock does not list it any more: {', '.join(retired)}")
    return [name for name in checkout.ledger.packs if name not in retired]


def _one_of(names: Sequence[str] | set[str]) -> str:
    return f"name one of: {', '.join(sorted(names))}" if names else "this upstream has no packs yet"


def _plan(project: Project, checkout: Checkout, names: Sequence[str], options: Options) -> Plan:
    return plan(checkout, load_packs(project.root, checkout.upstream, names), link=options.link)


def carry_out(checkout: Checkout, made: Plan, report: Report, *, write: bool) -> None:
    """Writes a plan in one transaction, with what is to be remembered of it; a plan with errors is not written."""
    report.add_outcomes(made.outcomes)
    for name, pack_digest in made.ledger.packs.items():
        report.packs.setdefault(name, {})["digest"] = pack_digest
    report.wrote = made.paths
    report.errors += made.errors
    report.notes += made.notes
    if not made.errors and not made.unchanged and write:
        commit(checkout.path, checkout.gitdir, [*made.writes, *made.ledger.writes(checkout.gitdir, made.contents)])
        checkout.ledger = made.ledger
    report.changed_lines = changed_lines(checkout)
    report.overlay_files = sum(entry.kind == "overlay" for entry in checkout.ledger.entries.values())
    if made.errors:
        report.wrote = []
        report.state = "failed"
    elif not write:
        report.state = "drifted" if made.writes else "applied" if checkout.ledger.packs else "unapplied"
    else:
        report.state = "applied" if checkout.ledger.packs else "unapplied"


def changed_lines(checkout: Checkout) -> int:
    """Lines that the edits add to and take from upstream files, as ``git diff --numstat`` counts them."""
    total = 0
    for entry in checkout.ledger.entries.values():
        if entry.kind == "edit" and entry.read is not None:
            old, new = (checkout.kept(blob).splitlines(keepends=True) for blob in (entry.read, entry.wrote))
            total += sum((h.hi - h.lo) + (h.new_hi - h.new_lo) for h in line_diff(old, new))
    return total


def settled(report: Report) -> Report:
    if report.errors and report.state not in ("unreachable",):
        report.state = "failed"
    return report
