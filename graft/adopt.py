"""The verb that brings edits made inside a checkout back to ``overlays/``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from graft import flock
from graft.actions import (
    Options,
    Project,
    at_work,
    carry_out,
    interrupted,
    own_gitdir,
    report_for,
    settled,
    standing,
    still_locked,
    unfinished,
)
from graft.checkout import Checkout
from graft.errors import Collision, GraftError
from graft.git import git
from graft.ledger import Entry, Ledger
from graft.lock import Upstream
from graft.merge import merge
from graft.overlay import Coming, mode_of
from graft.plan import Plan, load_packs, plan
from graft.report import Report
from graft.transaction import Write, commit, nested, recover

_SCRAP = (".pyc", "~", ".swp", ".swo")


def adopt(project: Project, upstream: Upstream, options: Options) -> Report:
    """Brings edits made to overlay files inside a checkout back to ``overlays/``.

    New files that the user made in or below a folder which holds overlay files only are adopted too, but for those
    that git ignores.
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
    return settled(report)


def finish_interrupted(project: Project) -> list[str]:
    """Finishes or undoes what a killed ``adopt``, ``upgrade`` or ``init-pack`` left; says what it did."""
    gitdir = own_gitdir(project)
    if gitdir is None or not unfinished(gitdir):
        return []
    with flock.held(gitdir):
        found = recover(project.root, gitdir)
    return [interrupted(found)] if found is not None else []


def _adopt(project: Project, checkout: Checkout, packs: set[str], report: Report) -> None:
    overlays = {
        path: entry
        for path, entry in checkout.ledger.entries.items()
        if entry.kind == "overlay" and (not packs or packs & set(entry.packs))
    }
    back: dict[str, Coming] = {}
    for path, entry in overlays.items():
        try:
            content = _edited(project, checkout, path, entry)
        except Collision as error:
            report.add_error(error)
            continue
        if content is not None and entry.source is not None:
            back[entry.source] = Coming(content, mode_of(checkout.path / path))
    for path, source in _new_files(checkout, overlays):
        content = checkout.content(path)
        if content is not None and not (project.root / source).exists():
            back[source] = Coming(content, mode_of(checkout.path / path))
    if report.errors or not back:
        report.state = "applied" if checkout.ledger.packs else "unapplied"
        return
    loaded = load_packs(project.root, checkout.upstream, still_locked(checkout, report), back)
    # A source holds the user's edit from now on: to merge that edit into it once more would double it.
    checkout.adopted = frozenset(path for path, entry in overlays.items() if entry.source in back)
    made = plan(checkout, loaded)
    if not made.errors:
        _write_back(project, checkout, made, back)
        report.adopted = sorted(back)
    landing = {file.source for pack in loaded for file in pack.files}
    for source in sorted(back.keys() - landing):
        report.warnings.append(f"no pack has {source}: add it to the overlays of one, or it stays where it is")
    carry_out(checkout, made, report, write=True)


def _edited(project: Project, checkout: Checkout, path: str, entry: Entry) -> bytes | None:
    """What an overlay's source becomes; None where the user has not edited the copy in the checkout.

    Raises:
        Collision: the source was edited too, in the same lines.
    """
    now = checkout.now[path]
    if now is None or entry.source is None or checkout.untouched(path) or (checkout.path / path).is_symlink():
        return None
    source = project.root / entry.source
    theirs = source.read_bytes() if source.is_file() else None
    if entry.link is not None and theirs is not None:
        if theirs == now:
            return None
        raise checkout.cut_loose(path, entry.source)
    # What a killed adopt, or the user, has brought back already counts: graft has to learn that it is no edit any more.
    if theirs is None or theirs == now:
        return now
    labels = ("as graft wrote it", "in the checkout", entry.source)
    return merge(checkout.kept(entry.wrote), now, theirs, labels=labels, where=path)


def _new_files(checkout: Checkout, overlays: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """Files the user made in or below folders that are ours alone, and the overlay path that each belongs to."""
    foreign = {str(parent) for path in checkout.tracked for parent in PurePosixPath(path).parents}
    folders = {
        str(PurePosixPath(path).parent): str(PurePosixPath(entry.source).parent)
        for path, entry in overlays.items()
        if entry.source is not None
    }
    listed = git(["ls-files", "-z", "--others", "--exclude-standard"], cwd=checkout.path)
    for path in sorted(os.fsdecode(name) for name in listed.split(b"\0") if name):
        file = checkout.path / path
        if path in checkout.ledger.entries or path.endswith(_SCRAP) or file.is_symlink() or not file.is_file():
            continue
        home = next((parent for parent in map(str, PurePosixPath(path).parents) if parent in folders), None)
        if home is not None and home not in foreign:
            yield path, f"{folders[home]}/{PurePosixPath(path).relative_to(home)}"


def _write_back(project: Project, checkout: Checkout, made: Plan, back: Mapping[str, Coming]) -> None:
    """The sources and what the checkout remembers of them, all or none, kept in the project's own git directory.

    A checkout whose git directory is not in the project's gets its part in a set of its own, after this one.
    """
    home = own_gitdir(project)
    if home is None:
        raise GraftError(
            "this copy of graft is no git repository", where=str(project.root), remedy="git init, then adopt"
        )
    writes = []
    for source, coming in back.items():
        changed = coming.mode != mode_of(project.root / source)
        writes.append(Write(source, coming.content, mode=coming.mode if changed else None))
    rooms = {}
    if checkout.gitdir.resolve().is_relative_to(home.resolve()):
        rooms[checkout.upstream.path] = checkout.gitdir.resolve().relative_to(home.resolve()).as_posix()
        own = [*made.writes, *made.ledger.writes(checkout.gitdir, made.contents)]
        writes += nested(own, checkout.upstream.path, rooms[checkout.upstream.path])
    with flock.held(home):
        recover(project.root, home)
        commit(project.root, home, writes, rooms=rooms)
    if rooms:
        made.unchanged, checkout.ledger = True, made.ledger
