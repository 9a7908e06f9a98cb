"""The verbs that only look: status, check, diff. What a killed command left is finished or undone all the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from graft import pushguard
from graft.actions import (
    Options,
    Project,
    apply,
    ask_source,
    at_work,
    changed_lines,
    report_for,
    standing,
    unfinished,
)
from graft.checkout import Checkout
from graft.errors import GraftError
from graft.fsops import digest
from graft.ledger import Entry, Ledger
from graft.lock import Upstream
from graft.plan import LoadedPack, load_packs
from graft.report import Report
from graft.rewrite import State, rewrite
from graft.tree import WorkTree


def status(project: Project, upstream: Upstream, options: Options) -> Report:
    """What a checkout is: proven or not, grafted with what, edited where; every edit is looked for in the files."""
    report = report_for(upstream)
    try:
        if options.reach:
            ask_source(project, upstream, options)
        checkout = _look(project, upstream, report)
        if checkout is None:
            return report
        ledger = checkout.ledger
        names = [name for name in upstream.packs if not options.packs or name in options.packs]
        known = {entry.pack.name: entry for entry in load_packs(project.root, upstream, upstream.packs)}
        # All that are carried are looked for together: each must know the others' lines to look past them.
        made = rewrite(
            WorkTree(checkout.path, checkout.tracked, {}), [known[name].pack for name in ledger.packs if name in known]
        )
        loaded = {name: entry for name, entry in known.items() if name in names}
        report.add_outcomes(outcome for outcome in made.outcomes if outcome.pack in loaded)
        for name, pack in loaded.items():
            edits = [outcome for outcome in made.outcomes if outcome.pack == name]
            missing = [outcome for outcome in edits if outcome.state is not State.ALREADY]
            stale = name in ledger.packs and (ledger.packs[name] != pack.digest or _older(ledger, pack))
            state = "changed" if missing else "older than the pack" if stale else "applied"
            report.packs.setdefault(name, {})
            report.packs[name] = {
                "state": state if name in ledger.packs else "unapplied",
                "why": pack.pack.why,
                **report.packs[name],
            }
        retired = ledger.packs.keys() - set(upstream.packs)
        for name in sorted(retired if not options.packs else retired & set(options.packs)):
            report.packs[name] = {"state": "retired", "why": "no longer in the lock; apply takes it out"}
        _sum_up(checkout, report)
        if report.state in ("changed", "partly applied"):
            report.notes.append(f"not what the packs would write: python apply.py {upstream.name}")
        if not pushguard.guarded(checkout.path):
            report.warnings.append(f"a push from here is not refused; python apply.py {upstream.name} sees to it")
    except GraftError as error:
        report.add_error(error)
        report.state = "failed"
    return report


def _older(ledger: Ledger, pack: LoadedPack) -> bool:
    """Whether an overlay of a pack differs from what graft wrote of it."""
    wanted = {file.path: file for file in pack.files}
    carried = {path for path, entry in ledger.entries.items() if pack.pack.name in entry.packs}
    overlays = {path: entry for path, entry in ledger.entries.items() if entry.kind == "overlay"}
    if not wanted.keys() <= overlays.keys() or not (carried & overlays.keys()) <= wanted.keys():
        return True
    copies = [(file, overlays[path]) for path, file in wanted.items() if overlays[path].link is None]
    return any((digest(file.content), file.mode) != (entry.wrote, entry.mode) for file, entry in copies)


def check(project: Project, upstream: Upstream, options: Options) -> Report:
    """What ``apply`` would write, without writing."""
    return apply(project, upstream, options, write=False)


def diff(project: Project, upstream: Upstream, options: Options) -> Report:
    """The method as a diff: what graft wrote against what it read; the user's own edits are not part of it."""
    report = report_for(upstream)
    try:
        checkout = _look(project, upstream, report)
        if checkout is None:
            return report
        report.diff = "".join(
            unified(path, old, new, checkout.ledger.entries[path])
            for path, (old, new) in sorted(_changes(project, checkout, options.packs).items())
        )
        _sum_up(checkout, report)
    except GraftError as error:
        report.add_error(error)
        report.state = "failed"
    return report


def _changes(project: Project, checkout: Checkout, packs: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
    """Each grafted file before and after, with only the packs named in it."""
    entries = {
        path: entry for path, entry in checkout.ledger.entries.items() if not packs or set(packs) & set(entry.packs)
    }
    before = {path: checkout.kept(entry.read) if entry.read is not None else b"" for path, entry in entries.items()}
    after = {
        path: checkout.kept(entry.wrote) if entry.link is None else (checkout.path / path).read_bytes()
        for path, entry in entries.items()
    }
    if packs:
        named = [loaded.pack for loaded in load_packs(project.root, checkout.upstream, packs)]
        edits = {path: old for path, old in before.items() if entries[path].kind == "edit"}
        after |= rewrite(WorkTree(checkout.path, checkout.tracked, edits), named).contents
    return {path: (before[path], after[path]) for path in entries}


def unified(path: str, old: bytes, new: bytes, entry: Entry) -> str:
    """One file's diff as git prints it, so that ``git apply`` takes it."""
    if old == new and entry.read is not None:
        return ""
    head = f"diff --git a/{path} b/{path}\n"
    if entry.read is None:
        head += f"new file mode 100{entry.mode:o}\n"
    try:
        before, after = (_lines(text.decode()) for text in (old, new))
    except UnicodeDecodeError:
        return f"{head}Binary files /dev/null and b/{path} differ\n"
    origin = "/dev/null" if entry.read is None else f"a/{path}"
    lines: Iterable[str] = difflib.unified_diff(before, after, origin, f"b/{path}")
    return head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Lines as git counts them: ended by a line feed, and by nothing else that Python takes for a line's end."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _look(project: Project, upstream: Upstream, report: Report) -> Checkout | None:
    checkout = standing(project, upstream, report)
    if checkout is not None and unfinished(checkout.gitdir):
        with at_work(checkout.path, checkout.gitdir, report):
            checkout.ledger = Ledger.load(checkout.gitdir)
    return checkout


def _sum_up(checkout: Checkout, report: Report) -> None:
    ledger = checkout.ledger
    report.changed_lines = changed_lines(checkout)
    report.overlay_files = sum(entry.kind == "overlay" for entry in ledger.entries.values())
    report.edited_by_user = sorted(path for path in ledger.entries if not checkout.untouched(path))
    states = {pack.get("state") for pack in report.packs.values()} - {None}
    gone = [path for path in ledger.entries if checkout.now[path] is None]
    if gone:
        report.warnings.append(f"deleted: {', '.join(gone)}")
        states |= {"changed"}
    if not ledger.packs:
        report.state = "unapplied"
    else:
        report.state = "changed" if states & {"changed", "older than the pack", "retired"} else "applied"
        if "unapplied" in states:
            report.state = "partly applied"
