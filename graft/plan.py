"""What a set of packs makes of one checkout: every write, and what is remembered of it, before anything is written.

A file with a graft in it is first read as it would be without (``unapply``), so that the user's own edits are part of
what the packs are applied to. Nothing here writes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from graft.checkout import Checkout
from graft.errors import BadInput, Collision, GraftError
from graft.fsops import digest, observe
from graft.ledger import Entry, Ledger
from graft.lock import Upstream
from graft.merge import merge
from graft.overlay import NOTHING, Coming, OverlayFile, overlay_files
from graft.pack import Pack, load_pack
from graft.reclaim import at_pin, mark, reclaim
from graft.rewrite import Outcome, Rewrite, rewrite
from graft.transaction import Link, Write
from graft.tree import WorkTree

ENGINE = "1"
"""Part of every pack's digest; another number makes every graft be planned anew."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class LoadedPack:
    pack: Pack
    digest: str
    files: tuple[OverlayFile, ...]


def load_packs(
    root: Path, upstream: Upstream, names: Sequence[str], coming: Mapping[str, Coming] = NOTHING
) -> list[LoadedPack]:
    """Packs with their overlays, sorted by name, since the result must not depend on their order.

    Args:
        coming: sources of overlay files that are about to be written.
    """
    loaded = []
    for name in sorted(set(names)):
        try:
            pack, source = load_pack(root, upstream.name, name)
        except SystemExit as stop:
            raise BadInput(
                "the pack ends the program", where=f"patches/{upstream.name}/{name}.py", remedy="define PACK, no more"
            ) from stop
        loaded.append(LoadedPack(pack, f"{ENGINE}-{source}", tuple(overlay_files(root, pack, coming))))
    return loaded


@dataclass
class Plan:
    """All that one run does to a checkout."""

    writes: list[Write] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    contents: list[bytes] = field(default_factory=list)  # what the ledger must keep
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[GraftError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchanged: bool = False  # nothing had to be looked at: the packs and the files are those of the last run

    @property
    def paths(self) -> list[str]:
        return sorted(write.path for write in self.writes)


def linked(checkout: Checkout) -> bool:
    """Whether a checkout's overlay files are links now."""
    return any(entry.link is not None for entry in checkout.ledger.entries.values())


def plan(checkout: Checkout, packs: Sequence[LoadedPack], *, link: bool | None = None) -> Plan:
    """What is to be written so that ``checkout`` carries exactly ``packs``; none takes every graft out.

    Args:
        link: link overlay files, or copy them; None leaves it at what they are.

    Raises:
        BadInput: two packs fight for a path.
    """
    link = linked(checkout) if link is None else link
    made = Plan(ledger=Ledger(checkout.upstream.name, checkout.upstream.commit, checkout.upstream.tree))
    made.ledger.packs = {loaded.pack.name: loaded.digest for loaded in packs}
    wanted = _wanted_overlays(packs)
    if _is_last_run(checkout, made.ledger, wanted, link):
        made.ledger, made.unchanged = checkout.ledger, True
        return made
    _plan_edits(checkout, packs, made)
    plan_overlays(checkout, packs, made, link=link)
    return made


def _is_last_run(checkout: Checkout, ledger: Ledger, wanted: Mapping[str, OverlayFile], link: bool) -> bool:
    old = checkout.ledger
    if (old.packs, old.commit) != (ledger.packs, ledger.commit):
        return False
    overlays = {path: entry for path, entry in old.entries.items() if entry.kind == "overlay"}
    if overlays.keys() != wanted.keys() or any((entry.link is not None) != link for entry in overlays.values()):
        return False
    same = all(
        entry.link is not None or (entry.wrote, entry.mode) == (digest(wanted[path].content), wanted[path].mode)
        for path, entry in overlays.items()
    )
    return same and all(map(checkout.untouched, old.entries))


def _wanted_overlays(packs: Sequence[LoadedPack]) -> dict[str, OverlayFile]:
    wanted: dict[str, OverlayFile] = {}
    for loaded in packs:
        for file in loaded.files:
            other = wanted.setdefault(file.path, file)
            if other.source != file.source:
                raise BadInput(
                    f"the packs {other.pack} and {file.pack} fight for one file",
                    where=file.path,
                    remedy=f"let {other.source} or {file.source} land elsewhere",
                )
    return wanted


def _plan_edits(checkout: Checkout, packs: Sequence[LoadedPack], made: Plan) -> None:
    entries = {path: entry for path, entry in checkout.ledger.entries.items() if entry.kind == "edit"}
    plain: dict[str, bytes] = {}
    for path in entries:
        found = collect(made.errors, partial(checkout.without_graft, path))
        if found is not None:
            plain[path] = found
    if len(plain) < len(entries):
        return  # what collides cannot be planned on, and nothing is written while there are errors
    edited = [loaded.pack for loaded in packs if loaded.pack.edits]
    result = rewrite(WorkTree(checkout.path, checkout.tracked, plain), edited) if edited else Rewrite()
    pin = at_pin(checkout, edited, plain, result)
    reclaimed = reclaim(checkout, plain, result, pin)
    if reclaimed:
        plain |= reclaimed
        result = rewrite(WorkTree(checkout.path, checkout.tracked, plain), edited)
        made.notes.append(f"the graft stood in {', '.join(reclaimed)} without being remembered; it is again")
    mark(result, pin)
    made.outcomes = result.outcomes
    made.errors += result.failures
    for path in sorted({*plain, *result.contents}):
        before = plain[path] if path in plain else checkout.content(path)
        now = checkout.content(path)
        after = result.contents.get(path, before)
        if before is None or after is None or now is None:
            made.errors.append(GraftError("the file is gone", where=path, remedy="run again"))
            continue
        if (checkout.path / path).is_symlink():
            target = os.readlink(checkout.path / path)
            made.errors.append(
                GraftError(
                    f"a symbolic link to {target}; an edit would replace it by a file",
                    where=path,
                    remedy="let the pack name the file itself",
                )
            )
            continue
        state = observe(checkout.path / path)
        mode = state.mode if state.mode is not None else 0o644
        if after != now:
            made.writes.append(Write(path, after, expect=now, ours=path in entries))
            if (
                path in entries
                and checkout.ledger.packs == made.ledger.packs
                and now != checkout.kept(entries[path].read or "")
            ):
                made.notes.append(f"{path}: graft's own lines are put back to where the packs have them")
        if after == before and path in result.contents:  # nothing to undo there, but to be looked at again next time
            names = tuple(sorted(result.packs_of[path]))
            made.ledger.entries[path] = Entry("edit", digest(before), digest(after), mode, packs=names)
            made.contents.append(before)
        if after != before:
            refused = _does_not_compile(path, before, after)
            if refused is not None:
                together = ", ".join(sorted(result.packs_of[path]))
                refused.remedy = f"look at what the packs edit there together: {together}"
                made.errors.append(refused)
            names = tuple(sorted(result.packs_of[path]))
            made.ledger.entries[path] = Entry("edit", digest(before), digest(after), mode, packs=names)
            made.contents += [before, after]


def _does_not_compile(path: str, before: bytes, after: bytes) -> GraftError | None:
    """What a Python compiler refuses of a file and a parser takes: a keyword given twice, say; nothing is run.

    A file that did not compile before is newer than the Python which runs this, and is left to its own.
    """
    found = _refusal(after)
    if found is None or _refusal(before) is not None:
        return None
    line = getattr(found, "lineno", None)
    return GraftError(f"it would not compile: {found}", where=f"{path}:{line}" if line else path)


def _refusal(content: bytes) -> SyntaxError | ValueError | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(content, "upstream", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return error
    return None


def plan_overlays(checkout: Checkout, packs: Sequence[LoadedPack], made: Plan, *, link: bool) -> None:
    """What becomes of the new files: written, merged with the user's edits, linked, or taken away."""
    wanted = _wanted_overlays(packs)
    old = {path: entry for path, entry in checkout.ledger.entries.items() if entry.kind == "overlay"}
    for path, file in wanted.items():
        collect(made.errors, partial(_plan_overlay, checkout, path, file, old.get(path), made, link))
    for path in sorted(old.keys() - wanted.keys()):
        if checkout.now[path] is None:
            continue
        if checkout.untouched(path) or _is_kept_as_source(checkout, path):
            made.writes.append(Write(path, None, expect=_expected(checkout, path), ours=True))
        else:
            made.errors.append(
                Collision(
                    f"an overlay file was edited in the checkout, to take it away would lose that ({old[path].source})",
                    where=path,
                    remedy=f"python apply.py adopt {checkout.upstream.name}, or move the file away, then run again",
                )
            )


def _is_kept_as_source(checkout: Checkout, path: str) -> bool:
    """Whether an edited overlay file is the very file that lies in ``overlays/`` now, so that nothing goes with it."""
    source = checkout.ledger.entries[path].source
    file = checkout.root / source if source is not None else None
    return file is not None and file.is_file() and file.read_bytes() == checkout.now[path]


def _plan_overlay(
    checkout: Checkout, path: str, file: OverlayFile, entry: Entry | None, made: Plan, link: bool
) -> None:
    target = os.path.relpath(checkout.root / file.source, (checkout.path / path).parent) if link else None
    if entry is None and checkout.content(path) == file.content:
        made.notes.append(f"{path} was there with the same bytes; it counts as graft's from now on")
    is_link = (checkout.path / path).is_symlink()
    if (checkout.path / path).is_dir() and not is_link and path not in checkout.upstreams_own:
        raise Collision(
            "a folder is where an overlay file is to land", where=path, remedy="move it away, then run again"
        )
    now = checkout.now[path] if entry is not None else _unclaimed(checkout, path, file)
    if entry is not None and entry.link is not None and not is_link and now not in (None, file.content):
        raise checkout.cut_loose(path, file.source)
    base = _base(checkout, entry, is_link)
    content = file.content
    if now is not None and not is_link and base is not None and now != base and path not in checkout.adopted:
        if link:
            raise Collision(
                "the overlay file was edited in the checkout, a link would hide that",
                where=path,
                remedy=f"python apply.py adopt {checkout.upstream.name}, then link",
            )
        labels = ("as graft wrote it", "in the checkout", file.source)
        content = merge(base, now, file.content, labels=labels, where=path)
    if target is not None:
        wrote = digest(os.fsencode(target))
        if not (is_link and now == os.fsencode(target)):
            made.writes.append(Write(path, link=target, expect=_expected(checkout, path), ours=True))
    else:
        wrote = digest(file.content)
        if is_link or now != content or (entry is not None and entry.mode != file.mode):
            made.writes.append(Write(path, content, mode=file.mode, expect=_expected(checkout, path), ours=True))
        made.contents.append(file.content)
    made.ledger.entries[path] = Entry(
        "overlay", None, wrote, file.mode, link=target, source=file.source, packs=(file.pack,)
    )


def _base(checkout: Checkout, entry: Entry | None, is_link: bool) -> bytes | None:
    """What the user's copy of an overlay file began as."""
    if entry is None or entry.link is not None or is_link:
        return None
    return checkout.kept(entry.wrote)


def _unclaimed(checkout: Checkout, path: str, file: OverlayFile) -> bytes | None:
    """What lies where a new overlay file is to land: nothing, or by chance the same bytes."""
    files = set(checkout.tracked)
    above = [str(parent) for parent in PurePosixPath(path).parents]
    if path in checkout.upstreams_own or not files.isdisjoint(above):
        raise BadInput(
            f"{file.source} would cover a file of the upstream", where=path, remedy="let the overlay land elsewhere"
        )
    file_there = checkout.path / path
    for parent in file_there.parents:
        if parent == checkout.path:
            break
        if parent.is_symlink():
            raise BadInput(f"{parent} is a symbolic link", where=path, remedy="an overlay lands in real folders only")
    now = checkout.content(path)
    if file_there.is_symlink() or (now is not None and now != file.content):
        raise Collision(
            "a file that graft did not write is there already",
            where=path,
            remedy=f"move it away, or copy it over {file.source} to keep it",
        )
    return now


def _expected(checkout: Checkout, path: str) -> bytes | Link | None:
    file = checkout.path / path
    return Link(os.readlink(file)) if file.is_symlink() else checkout.content(path)


def collect(errors: list[GraftError], work: Callable[[], _T]) -> _T | None:
    """Runs ``work``; what goes wrong is kept, so that one run reports all of it."""
    try:
        return work()
    except GraftError as error:
        errors.append(error)
        return None
