"""The verbs that write a checkout: apply, revert, adopt. One upstream's failure never stops the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from graft import flock, git, pushguard, sources
from graft.errors import BadInput, Collision, GraftError, Unreachable
from graft.fsops import digest
from graft.ledger import Ledger
from graft.lock import Lock, Upstream
from graft.merge import diff as line_diff
from graft.merge import merge
from graft.plan import Checkout, Plan, load_packs, plan
from graft.report import Report
from graft.transaction import Write, commit, recover

ATTEMPTS = "fetch.json"
_SCRAP = (".pyc", "~", ".swp", ".swo")


@dataclass
class Options:
    """What a user asks for beside the verb; empty ``packs`` means all of the lock."""

    packs: Sequence[str] = ()
    mirror: Path | None = None
    offline: bool = False
    link: bool = False
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
            report.notes.append(
                f"an interrupted command was {found.outcome}: {', '.join(found.files) or 'nothing had begun'}"
            )
            if found.kept:
                report.warnings.append(f"left alone, since you changed them meanwhile: {', '.join(found.kept)}")
        yield


def standing(project: Project, upstream: Upstream, report: Report) -> Checkout | None:
    """The checkout that is there, None where there is none; nothing is fetched.

    Raises:
        GraftError: it is not at the pin.
    """
    path = project.root / upstream.path
    if not path.is_dir() or not any(path.iterdir()):
        _say_why_absent(project, upstream, report)
        return None
    found = sources.obtain(upstream, project.root, offline=True, progress=lambda text: None)
    return _opened(project, upstream, found, report)


def _opened(project: Project, upstream: Upstream, found: sources.Obtained, report: Report) -> Checkout:
    report.source = found.source
    report.tree_proven = True
    report.tried = [str(attempt) for attempt in found.tried]
    if found.warning:
        report.warnings.append(found.warning)
    return Checkout(project.root, found.path, found.git_dir, upstream)


def _say_why_absent(project: Project, upstream: Upstream, report: Report) -> None:
    last = _attempts(project).get(upstream.name)
    report.state = "unreachable" if last else "absent"
    report.notes.append(f"not fetched; python apply.py {upstream.name}")
    if last:
        report.tried = [str(line) for line in last["tried"]]


def _attempts_file(project: Project) -> Path | None:
    try:
        return git.git_dir(project.root) / "graft" / ATTEMPTS
    except GraftError:  # a release of graft unpacked from an archive is no repository, and need not remember
        return None


def _attempts(project: Project) -> dict[str, dict[str, list[str]]]:
    file = _attempts_file(project)
    if file is None or not file.is_file():
        return {}
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise GraftError("the memory of failed fetches is damaged", where=str(file), remedy=f"rm {file}") from error
    return data if isinstance(data, dict) else {}


def _remember_attempt(project: Project, upstream: Upstream, tried: list[str] | None) -> None:
    """Keeps why an upstream could not be fetched, so that ``status`` can name it; forgets it once it is there."""
    file = _attempts_file(project)
    known = _attempts(project)
    if file is None or (tried is None and upstream.name not in known):
        return
    known.pop(upstream.name, None)
    if tried is not None:
        known[upstream.name] = {"tried": tried, "when": [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())]}
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
        load_packs(project.root, upstream, upstream.packs)  # a bad pack is said before anything is fetched
        checkout = _obtain(project, upstream, options, report) if write else standing(project, upstream, report)
        if checkout is None:
            return report
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
            names = [*(checkout.ledger.packs if wanted else ()), *(wanted or upstream.packs)]
            _carry_out(checkout, _plan(project, checkout, names, options), report, write=write)
            if write:
                report.notes += pushguard.guard(checkout.path).notes
    except GraftError as error:
        report.add_error(error)
    return _settled(report)


def revert(project: Project, upstream: Upstream, options: Options) -> Report:
    """Takes the packs (all, or those named) out of a checkout; the user's own edits stay."""
    report = report_for(upstream)
    try:
        checkout = standing(project, upstream, report)
        if checkout is None:
            return report
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
            known = {*upstream.packs, *checkout.ledger.packs}
            for name in options.packs:
                if name not in known:
                    raise BadInput(f"no pack is called {name!r}", where=upstream.name, remedy=_one_of(known))
            left = [name for name in checkout.ledger.packs if options.packs and name not in options.packs]
            _carry_out(checkout, _plan(project, checkout, left, options), report, write=True)
    except GraftError as error:
        report.add_error(error)
    return _settled(report)


def adopt(project: Project, upstream: Upstream, options: Options) -> Report:
    """Brings edits made to overlay files inside a checkout back to ``overlays/``.

    New files that the user made in a folder which holds overlay files only are adopted too.
    """
    report = report_for(upstream)
    try:
        checkout = standing(project, upstream, report)
        if checkout is None:
            return report
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
            _adopt(project, checkout, set(options.packs), report)
    except GraftError as error:
        report.add_error(error)
    return _settled(report)


def _obtain(project: Project, upstream: Upstream, options: Options, report: Report) -> Checkout:
    try:
        found = sources.obtain(
            upstream, project.root, mirror=options.mirror, offline=options.offline, progress=options.progress
        )
    except Unreachable as error:
        _remember_attempt(project, upstream, [str(error)])
        report.state = "unreachable"
        raise
    _remember_attempt(project, upstream, None)
    return _opened(project, upstream, found, report)


def _check_packs(upstream: Upstream, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in upstream.packs:
            raise BadInput(f"no pack is called {name!r}", where=upstream.name, remedy=_one_of(upstream.packs))
    return list(names)


def _one_of(names: Sequence[str] | set[str]) -> str:
    return f"name one of: {', '.join(sorted(names))}" if names else "this upstream has no packs yet"


def _plan(project: Project, checkout: Checkout, names: Sequence[str], options: Options) -> Plan:
    return plan(checkout, load_packs(project.root, checkout.upstream, names), link=options.link)


def _carry_out(checkout: Checkout, made: Plan, report: Report, *, write: bool) -> None:
    """Writes a plan in one transaction, with what is to be remembered of it; a plan with errors is not written."""
    report.add_outcomes(made.outcomes)
    for name, pack_digest in made.ledger.packs.items():
        report.packs.setdefault(name, {})["digest"] = pack_digest
    report.wrote = made.paths
    report.errors += made.errors
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


def _settled(report: Report) -> Report:
    if report.errors and report.state not in ("unreachable",):
        report.state = "failed"
    return report


def _adopt(project: Project, checkout: Checkout, packs: set[str], report: Report) -> None:
    overlays = {
        path: entry
        for path, entry in checkout.ledger.entries.items()
        if entry.kind == "overlay" and entry.link is None and (not packs or packs & set(entry.packs))
    }
    back: dict[str, tuple[str, bytes]] = {}  # source: where it lies in the checkout, what it becomes
    for path, entry in overlays.items():
        now = checkout.now[path]
        if now is None or digest(now) == entry.wrote or entry.source is None:
            continue
        theirs = (project.root / entry.source).read_bytes()
        try:
            labels = ("as graft wrote it", "in the checkout", entry.source)
            back[entry.source] = path, merge(checkout.kept(entry.wrote), now, theirs, labels=labels, where=path)
        except Collision as error:
            report.add_error(error)
    for path, source in _new_beside(checkout, overlays):
        content = checkout.content(path)
        if content is not None and not (project.root / source).exists():
            back[source] = path, content
    if report.errors or not back:
        report.state = "failed" if report.errors else "applied"
        return
    _write_back(project, back)
    report.adopted = sorted(back)
    names = list(checkout.ledger.packs)
    _carry_out(checkout, _plan(project, checkout, names, Options()), report, write=True)


def _new_beside(checkout: Checkout, overlays: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Files the user made in folders that are ours alone, and the overlay path that each belongs to."""
    foreign = {str(parent) for path in checkout.tracked for parent in PurePosixPath(path).parents}
    folders: dict[str, str] = {}
    for path, entry in checkout.ledger.entries.items():
        if path in overlays and entry.source is not None:
            folders[str(PurePosixPath(path).parent)] = str(PurePosixPath(entry.source).parent)
    for folder, source in sorted(folders.items()):
        if folder in foreign:
            continue
        for file in sorted((checkout.path / folder).iterdir()):
            path = f"{folder}/{file.name}"
            if file.is_file() and not file.is_symlink() and not file.name.endswith(_SCRAP) and path not in overlays:
                yield path, f"{source}/{file.name}"


def _write_back(project: Project, back: dict[str, tuple[str, bytes]]) -> None:
    """All of the files or none, through the same transaction, kept in the project's own git directory."""
    store = _attempts_file(project)
    if store is None:
        raise GraftError(
            "this copy of graft is no git repository", where=str(project.root), remedy="git init, then adopt"
        )
    gitdir = store.parent.parent
    with flock.held(gitdir):
        recover(project.root, gitdir)
        commit(project.root, gitdir, [Write(source, content) for source, (_, content) in back.items()])
