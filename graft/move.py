"""Moving a pin: the checkout's files, its HEAD and index, what graft remembers, the lock and the gitlink, all or none.

It is one transaction of the project's repository, so that after a kill at any moment the project is at the old pin or
at the new one. The user's own edits are merged into the new files; where they collide nothing moves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from graft import flock
from graft.actions import Project
from graft.checkout import Checkout
from graft.errors import Collision, GraftError
from graft.fsops import digest
from graft.git import git, git_dir, git_text, read_blobs
from graft.ledger import Entry, Ledger
from graft.lock import FILE, Upstream
from graft.locktext import with_values
from graft.merge import merge
from graft.plan import LoadedPack, Plan, collect, linked, plan_overlays
from graft.rewrite import rewrite
from graft.submodule import gitlink, recorded, refuse_held
from graft.transaction import Link, Write, commit, nested, recover
from graft.tree import WorkTree
from graft.writes import examine


@dataclass(frozen=True)
class Target:
    """Where an upgrade goes: the commit that a ref names, and its tree; the checkout's repository holds the objects."""

    ref: str
    commit: str
    tree: str
    source: str


@dataclass
class Made:
    """Every write of a move: in the checkout, and in its git directory."""

    tree_writes: list[Write] = field(default_factory=list)
    git_writes: list[Write] = field(default_factory=list)
    errors: list[GraftError] = field(default_factory=list)


def plan_move(project: Project, checkout: Checkout, target: Target, packs: Sequence[LoadedPack]) -> Made:
    """The checkout at the new commit with the user's edits and the graft in it."""
    made = Made()
    if git_text(["diff", "--cached", "--name-only", "HEAD"], cwd=checkout.path):
        raise GraftError(
            "there are staged changes in the checkout",
            where=checkout.upstream.path,
            remedy=f"git -C {checkout.upstream.path} restore --staged . (your edits stay in the files)",
        )
    plain: dict[str, bytes | None] = {}
    modes: dict[str, int] = {}
    links: list[Write] = []
    for path, entry in checkout.ledger.entries.items():
        if entry.kind == "edit":
            collect(made.errors, partial(_take_out, checkout, path, plain))
    for change in _changes(checkout, target):
        collect(made.errors, partial(_follow, checkout, change, plain, modes, links))
    if made.errors:
        return made
    upstream = replace(checkout.upstream, ref=target.ref, commit=target.commit, tree=target.tree)
    tracked = git_text(["ls-tree", "-r", "-z", "--name-only", target.commit], cwd=checkout.path).split("\0")
    edits = [loaded.pack for loaded in packs if loaded.pack.edits]
    result = rewrite(WorkTree(checkout.path, tracked, plain), edits)
    made.errors += result.failures
    ledger = Ledger(upstream.name, upstream.commit, upstream.tree)
    ledger.packs = {loaded.pack.name: loaded.digest for loaded in packs}
    contents: list[bytes] = []
    for path in sorted({*plain, *result.contents}):
        before = plain[path] if path in plain else checkout.content(path)
        after = result.contents.get(path, before)
        now = checkout.content(path)
        if after != now or path in modes:
            made.tree_writes.append(Write(path, after, mode=modes.get(path), expect=now, ours=True))
        if after is not None and before is not None and after != before:
            mode = modes.get(path) or ((checkout.path / path).stat().st_mode & 0o777)
            names = tuple(sorted(result.packs_of[path]))
            ledger.entries[path] = Entry("edit", digest(before), digest(after), mode, packs=names)
            contents += [before, after]
    overlays = Plan(ledger=ledger)
    moved = Checkout(checkout.root, checkout.path, checkout.gitdir, upstream)
    moved.__dict__["tracked"] = tracked
    plan_overlays(moved, packs, overlays, link=linked(checkout))
    made.errors += overlays.errors
    made.tree_writes += [*links, *overlays.writes]
    made.git_writes += ledger.writes(checkout.gitdir, [*contents, *overlays.contents])
    made.git_writes += [Write("HEAD", f"{target.commit}\n".encode(), space="git"), _index(checkout, target)]
    # What the transaction would refuse is known before anybody decides to go: a dry run has to see it too.
    collect(made.errors, partial(_examine, checkout, made))
    return made


def _examine(checkout: Checkout, made: Made) -> None:
    for write in made.tree_writes:
        for up in PurePosixPath(write.path).parents:
            old = checkout.path / up
            if write.content is not None and (old.is_file() or old.is_symlink()):
                raise _changed_kind(str(up), "a file", "a folder", checkout)
        if write.content is not None and (checkout.path / write.path).is_dir():
            raise _changed_kind(write.path, "a folder", "a file", checkout)
    examine(checkout.path, checkout.gitdir, [*made.tree_writes, *made.git_writes])


def _changed_kind(path: str, was: str, is_now: str, checkout: Checkout) -> GraftError:
    return GraftError(
        f"{was} became {is_now} upstream, which an upgrade cannot follow by itself",
        where=path,
        remedy=f"python apply.py revert {checkout.upstream.name}, move the pin in upstream.lock and the checkout's HEAD"
        " with git, then apply",
    )


def _take_out(checkout: Checkout, path: str, plain: dict[str, bytes | None]) -> None:
    plain[path] = checkout.without_graft(path)


@dataclass(frozen=True)
class _Change:
    """One file that differs between the old pin and the new commit; a mode of "000000" means that it is not there."""

    path: str
    old_mode: str
    new_mode: str
    old: bytes | None
    new: bytes | None


def _changes(checkout: Checkout, target: Target) -> list[_Change]:
    raw = git(
        ["diff-tree", "-r", "-z", "--no-renames", "--raw", "--abbrev=40", checkout.upstream.commit, target.commit],
        cwd=checkout.path,
    )
    words = os.fsdecode(raw).split("\0")
    heads = [words[index][1:].split(" ") for index in range(0, len(words) - 1, 2)]
    paths = words[1::2]
    kept = [(head, path) for head, path in zip(heads, paths, strict=False) if "160000" not in head[:2]]
    blobs = read_blobs(checkout.path, [blob for head, _ in kept for blob in head[2:4]])
    return [
        _Change(path, head[0], head[1], blobs[2 * index], blobs[2 * index + 1])
        for index, (head, path) in enumerate(kept)
    ]


def _follow(
    checkout: Checkout, change: _Change, plain: dict[str, bytes | None], modes: dict[str, int], links: list[Write]
) -> None:
    """What one changed file becomes, with the user's own edits in it."""
    path = change.path
    if (change.new is None and change.new_mode != "000000") or (change.old is None and change.old_mode != "000000"):
        raise GraftError("its content is not in the repository", where=path, remedy="fetch from a complete source")
    file = checkout.path / path
    if "120000" in (change.old_mode, change.new_mode):
        _follow_link(checkout, change, plain, links)
        return
    now = plain[path] if path in plain else checkout.content(path)
    if change.old is None and now is not None and now != change.new:
        if path in checkout.ledger.entries:
            raise Collision(
                "upstream adds a file where an overlay lands", where=path, remedy="give the overlay another place"
            )
        raise Collision("upstream adds a file where you have one of your own", where=path, remedy="move yours away")
    if now == change.old or change.old is None:
        plain[path] = change.new
    elif now is None:
        plain[path] = None  # the user deleted it, and it stays so
    elif change.new is None:
        raise Collision("upstream deletes a file that you edited", where=path, remedy="move your copy away")
    else:
        plain[path] = merge(
            change.old, now, change.new, labels=("at the pin", "in the checkout", "upstream now"), where=path
        )
    if change.new is not None and plain[path] is not None and change.new_mode != change.old_mode:
        modes[path] = 0o755 if change.new_mode == "100755" else 0o644
    if file.is_symlink():
        raise Collision("you made a symbolic link of an upstream file", where=path, remedy="undo that")


def _follow_link(checkout: Checkout, change: _Change, plain: dict[str, bytes | None], links: list[Write]) -> None:
    now = checkout.content(change.path)
    if now != change.old:
        raise Collision("upstream changes a file or link that you changed too", where=change.path, remedy="undo yours")
    there = Link(os.fsdecode(change.old)) if change.old_mode == "120000" and change.old is not None else now
    if change.new_mode == "120000" and change.new is not None:
        links.append(Write(change.path, link=os.fsdecode(change.new), expect=there, ours=True))
    else:
        mode = 0o755 if change.new_mode == "100755" else 0o644
        links.append(Write(change.path, change.new, mode=mode, expect=there, ours=True))
    plain.pop(change.path, None)


def _index(checkout: Checkout, target: Target) -> Write:
    """The checkout's index for the new commit, made beside the real one."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index")
        env = {"GIT_INDEX_FILE": str(index)}
        git(["read-tree", target.commit], cwd=checkout.path, env=env)
        absent = [
            os.fsdecode(line[2:])
            for line in git(["ls-files", "-z", "-t"], cwd=checkout.path).split(b"\0")
            if line.startswith(b"S ")
        ]
        if absent:
            still = set(git_text(["ls-files", "-z"], cwd=checkout.path, env=env).split("\0")) & set(absent)
            names = b"".join(os.fsencode(name) + b"\0" for name in sorted(still))
            git(["update-index", "-z", "--skip-worktree", "--stdin"], cwd=checkout.path, env=env, input=names)
        return Write("index", index.read_bytes(), space="git")


def move(project: Project, checkout: Checkout, target: Target, made: Made) -> None:
    """All of it in one transaction of the project's repository."""
    home = git_dir(project.root)
    try:
        inside = checkout.gitdir.resolve().relative_to(home.resolve()).as_posix()
    except ValueError as error:
        raise GraftError(
            "the checkout's git directory is not in the project's, so the two cannot be moved at once",
            where=checkout.upstream.path,
            remedy=f"git submodule absorbgitdirs {checkout.upstream.path}",
        ) from error
    writes = nested([*made.tree_writes, *made.git_writes], checkout.upstream.path, inside)
    lock = project.root / FILE
    old = lock.read_bytes()
    writes.append(Write(FILE, moved_lock(old, project.root, checkout.upstream, target), expect=old))
    refuse_held(checkout.gitdir / "index")
    with flock.held(home):
        recover(project.root, home)
        link = _gitlink(project, checkout.upstream, target)
        commit(project.root, home, [*writes, *link], rooms={checkout.upstream.path: inside})


def moved_lock(text: bytes, root: Path, upstream: Upstream, target: Target) -> bytes:
    """The lock with another ref, commit and tree for one upstream; every other byte stays.

    ``ref`` is where the commit was found: an id stands for itself, and so does ``HEAD`` where it names no branch, since
    tomorrow it is another commit.
    """
    ref = target.commit if target.ref == "HEAD" else target.ref
    return with_values(text, root, upstream.name, {"ref": ref, "commit": target.commit, "tree": target.tree})


def _gitlink(project: Project, upstream: Upstream, target: Target) -> list[Write]:
    """The project's index with the submodule at the new commit; nothing where it is not a submodule."""
    if recorded(project.root, upstream.path) is None:
        return []
    return [gitlink(project.root, upstream.path, target.commit)]
