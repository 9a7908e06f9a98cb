"""``upgrade``: tries every pack on another commit of its upstream, and moves the pin only when all of them hold there.

How it moves is in ``move.py``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graft import dependencies
from graft.actions import Options, Project, as_grafted, at_work, standing
from graft.bisect import Named, candidates_at, first_breaking, named
from graft.branch import default_branch
from graft.checkout import Checkout
from graft.errors import BadInput, GraftError, Unreachable
from graft.fetch import Remote, fetch, mirrored, published
from graft.git import has_commit, run, tree_id
from graft.ledger import Ledger
from graft.lock import Upstream
from graft.move import Target, move, plan_move
from graft.past import obtain as obtain_history
from graft.plan import load_packs
from graft.report import Report
from graft.rewrite import Outcome, State, rewrite
from graft.source import Source
from graft.tree import CommitTree, Tree

_FULL = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")


@dataclass
class Trial:
    """One edit on the new tree.

    ``verdict`` is applied, moved, upstream has it now, lost, ambiguous or failed. ``around`` is how upstream changed
    the definition since the pin, as a diff, since an edit that still matches may mean something else there.
    """

    edit: str  # ``pack:number``, as bisect takes it
    outcome: Outcome
    verdict: str
    around: str = ""
    first: str = ""  # the upstream commit that did it, where history is at hand

    def as_dict(self) -> dict[str, Any]:
        data = {
            "name": self.edit,
            "pack": self.outcome.pack,
            "edit": self.outcome.verb,
            "anchor": self.outcome.anchor,
            "path": self.outcome.path,
            "definition": self.outcome.definition,
            "declared": self.outcome.declared,
            "verdict": self.verdict,
            "moved_from": self.outcome.moved_from,
            "detail": self.outcome.detail,
            "candidates": [vars(candidate) for candidate in self.outcome.candidates],
            "first_commit": self.first,
            "around": self.around,
        }
        return {key: value for key, value in data.items() if value}


@dataclass
class Upgrade:
    """What an upgrade found and did."""

    report: Report
    target: Target | None = None
    trials: list[Trial] = field(default_factory=list)
    moved: bool = False


def upgrade(project: Project, upstream: Upstream, ref: str | None, options: Options, *, dry_run: bool) -> Upgrade:
    """Tries ``ref`` and, where all is well and not ``dry_run``, goes there; a failure leaves everything as it was.

    Args:
        ref: None follows the lock: a checkout that was grafted at an earlier pin goes to the one that the lock names.

    Raises:
        BadInput: ``ref`` is no branch, tag or full commit id.
        Unreachable: no source has it.
        GraftError: there is no checkout yet, or it cannot be moved.
    """
    report = Report(upstream.name, upstream.path, upstream.commit, upstream.tree, upstream.license)
    done = Upgrade(report)
    locked, upstream = upstream, as_grafted(project, upstream)
    if ref is None and upstream.commit == locked.commit:
        raise BadInput(
            "the checkout is at the lock's pin", where=upstream.name, remedy="say where to go: --to main, --to v1.2"
        )
    checkout = standing(project, upstream, report)
    if checkout is None:
        raise GraftError("there is no checkout yet", where=upstream.name, remedy=f"python apply.py {upstream.name}")
    with at_work(checkout.path, checkout.gitdir, report):
        checkout.ledger = Ledger.load(checkout.gitdir)
        done.target = find(upstream, ref or locked.commit, checkout, options)
        if ref is None:
            done.target = replace(done.target, ref=locked.ref)
        packs = load_packs(project.root, upstream, upstream.packs)
        old, new = (CommitTree(checkout.path, commit) for commit in (upstream.commit, done.target.commit))
        own = [loaded.pack for loaded in packs]
        found = rewrite(new, own)
        edits = named(own)
        done.trials = [study(str(edit), end, old, new) for edit, end in zip(edits, found.outcomes, strict=True)]
        report.notes += explain(project, upstream, edits, done.target, done.trials, options)
        report.notes += dependencies.changes(old, new)
        # What a lost edit leaves undone is told by the edit; the packs' own conditions count where all edits hold.
        report.errors += [outcome.as_error() for outcome in found.outcomes if not outcome.good] or found.errors
        if report.errors:
            report.state = "failed"
            return done
        made = plan_move(project, checkout, done.target, packs)
        report.wrote = [write.path for write in made.tree_writes]
        for error in made.errors:
            report.add_error(error)
        report.state = "failed" if report.errors else "tried"
        if report.errors or dry_run:
            return done
        move(project, checkout, done.target, made)
        done.moved, report.state = True, "applied"
        report.commit, report.tree, report.tree_proven = done.target.commit, done.target.tree, True
        return done


def find(upstream: Upstream, ref: str, checkout: Checkout, options: Options) -> Target:
    """The commit that ``ref`` names upstream, fetched into the checkout's repository; nothing else changes there."""
    if not _REF.fullmatch(ref) or ".." in ref:
        raise BadInput(
            f"{ref!r} is no branch, tag or commit", where="--to", remedy="name one, as in --to v1.2 or --to main"
        )
    tried: list[str] = []
    for remote in _remotes(upstream, checkout, options):
        commit_id = ref if _FULL.fullmatch(ref) else resolve(ref, remote, checkout.path, tried)
        if commit_id is None:
            continue
        try:
            called = (default_branch(remote, checkout.path) or commit_id) if ref == "HEAD" else ref
            wanted = replace(upstream, ref=called, commit=commit_id)
            if not has_commit(checkout.path, commit_id):
                options.progress(f"{upstream.name}: {ref} from {remote.shown}")
                fetch(wanted, checkout.path, remote, options.progress)
            return Target(called, commit_id, tree_id(checkout.path, commit_id), remote.shown)
        except GraftError as error:
            tried.append(f"{remote.shown}: {error.what}")
    if _FULL.fullmatch(ref) and has_commit(checkout.path, ref):
        return Target(ref, ref, tree_id(checkout.path, ref), "the checkout's own repository")
    listed = "\n  - ".join(tried)
    raise Unreachable(
        f"no source has {ref}; tried:\n  - {listed}", where=upstream.name, remedy="check the name, or --mirror DIR"
    )


def _remotes(upstream: Upstream, checkout: Checkout, options: Options) -> Iterator[Remote]:
    if options.mirror is not None:
        yield from (remote for remote in mirrored(upstream, options.mirror) if isinstance(remote, Remote))
    remote = published(upstream, checkout.path)
    if remote.local is not None or not options.offline:
        yield remote


def resolve(ref: str, remote: Remote, cwd: Path, tried: list[str]) -> str | None:
    """The commit id behind a branch or tag; an annotated tag's commit, not the tag's own id."""
    asked = run(["ls-remote", "--", remote.address, ref, f"{ref}^{{}}"], cwd=cwd)
    if asked.code != 0:
        tried.append(
            f"{remote.shown}: {asked.err.strip().splitlines()[-1] if asked.err.strip() else 'does not answer'}"
        )
        return None
    found: dict[str, str] = {}
    for line in asked.out.decode().splitlines():
        commit_id, name = line.split("	")
        found[name] = commit_id
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        if name in found:
            return found[name]
    tried.append(f"{remote.shown}: has no branch or tag {ref}")
    return None


def study(edit: str, outcome: Outcome, old: Tree, new: Tree) -> Trial:
    """How an edit ends on the new tree, and what changed around it."""
    verdict = {
        State.APPLIED: "moved" if outcome.moved_from else "applied",
        State.ALREADY: "upstream has it now",
    }.get(outcome.state, outcome.state.value)
    seen = outcome.good and outcome.definition and outcome.verb != "add_import"
    return Trial(edit, outcome, verdict, _around(outcome, old, new) if seen else "")


def explain(
    project: Project,
    upstream: Upstream,
    edits: Sequence[Named],
    target: Target,
    trials: Sequence[Trial],
    options: Options,
) -> list[str]:
    """Which upstream commit lost each edit that is lost, and where it may be now; says where that cannot be told."""
    lost = [(edit, trial) for edit, trial in zip(edits, trials, strict=True) if not trial.outcome.good]
    if not lost:
        return []
    notes = []
    try:
        with obtain_history(upstream, project.root, target.commit, options) as history:
            for edit, trial in lost:
                try:
                    found = first_breaking(history, edit, upstream.commit, target.commit).commit
                    trial.first = f"{found.id[:10]} {found.date[:10]} {found.subject}"
                    trial.outcome.candidates = candidates_at(history, edit, upstream.commit, target.commit)
                except GraftError as error:
                    notes.append(f"which commit lost {edit} is not known: {error.what}")
    except GraftError as error:
        notes.append(f"which commits did it is not known: {error.what}; {error.remedy}")
    return notes


def _around(outcome: Outcome, old: Tree, new: Tree) -> str:
    before = _definition(old, outcome.moved_from or outcome.path, outcome.definition)
    after = _definition(new, outcome.path, outcome.definition)
    if before is None or after is None or before == after:
        return ""
    names = (f"{outcome.moved_from or outcome.path} at the pin", f"{outcome.path} now")
    return "".join(difflib.unified_diff(before, after, *names, n=2))


def _definition(tree: Tree, path: str, name: str | None) -> list[str] | None:
    content = tree.read(path)
    if content is None:
        return None
    source = Source(path, content)
    spans = [source.span(scope) for scope in source.definitions(name)]
    return "".join(content[start:end].decode() + "\n" for start, end in spans).splitlines(keepends=True)
