"""Checkouts of the pinned upstreams: the one that is there, or a new one from the first source that proves the pin.

A new checkout grows in a directory of its own beside its place and moves there in one rename when its tree id is the
lock's; whatever stops it before that leaves nothing half-made.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graft import flock
from graft.archive import Unproven
from graft.errors import BadInput, GraftError, Unreachable
from graft.git import NO_HOOKS, Progress, config_get, git, git_dir, git_text, has_commit, position, run
from graft.lock import Upstream
from graft.offers import every
from graft.pushguard import guard

ABSENT = "graft-absent"
"""File in a checkout's git directory: the paths that the source of an incomplete checkout lacked, NUL-separated."""

_INCOMING = ".incoming"


@dataclass(frozen=True)
class Attempt:
    """A source that was tried and did not serve: what it was and why."""

    source: str
    why: str

    def __str__(self) -> str:
        return f"{self.source}: {self.why}"


@dataclass(frozen=True)
class Obtained:
    """A checkout at the pin.

    Attributes:
        path: of the checkout, absolute.
        git_dir: its git directory, absolute.
        source: where it came from, in words.
        fresh: it was made now; anything remembered about an earlier one is void.
        absent: tracked files that its source lacked and that are still not there; empty for a complete checkout.
        tried: the sources that did not serve, in order.
    """

    path: Path
    git_dir: Path
    source: str
    fresh: bool
    absent: tuple[str, ...] = ()
    tried: tuple[Attempt, ...] = ()

    @property
    def warning(self) -> str:
        """What the user has to know about an incomplete checkout; empty for a complete one."""
        if not self.absent:
            return ""
        shown = ", ".join(self.absent[:3]) + (", ..." if len(self.absent) > 3 else "")
        return (
            f"{len(self.absent)} tracked files are absent: its source did not have them ({shown}); "
            f"all are listed in {self.git_dir / ABSENT}"
        )

    @property
    def remedy(self) -> str:
        """The command that completes an incomplete checkout from its URL; empty for a complete one."""
        if not self.absent:
            return ""
        git_here, listed = f"git -C {shlex.quote(str(self.path))}", shlex.quote(str(self.git_dir / ABSENT))
        return (
            f"{git_here} checkout --ignore-skip-worktree-bits --pathspec-from-file={listed} --pathspec-file-nul && "
            f"{git_here} update-index --no-skip-worktree -z --stdin < {listed}"
        )


def obtain(
    upstream: Upstream, root: Path, *, mirror: Path | None = None, offline: bool = False, progress: Progress
) -> Obtained:
    """The checkout of ``upstream`` in the project at ``root``, made now if it is not there.

    Sources, in order: the checkout that is there; ``mirror``; the mirror that git's ``insteadOf`` puts in the place of
    the URL; the URL; the archive in ``mirror``; the registry archive. A second process waits while one fetches.

    Args:
        mirror: a directory of repositories: OWNER+NAME/repo, OWNER/NAME, OWNER+NAME or NAME, bare (.git) or not.
        offline: use what is on this machine only.
        progress: receives lines of text while something is fetched, some of them from another thread.

    Raises:
        GraftError: what is there is not at the pin, or is no checkout. It is left as it is.
        BadInput: ``mirror`` is not a directory.
        Unreachable: no source has the pin; lists all that were tried.
        Unproven: the same, and one source's tree or archive is not what the lock says.
    """
    path = root / upstream.path
    if mirror is not None and not mirror.is_dir():
        raise BadInput("not a directory", where=f"--mirror {mirror}", remedy="name a directory that holds clones")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise GraftError("is in the way: not a directory", where=str(path), remedy="move it away")
    if _occupied(path):
        return _standing(upstream, path)
    with flock.turn(_fetching(root, upstream), lambda who: progress(f"{upstream.name}: waiting for {who}")):
        if _occupied(path):
            return _standing(upstream, path)
        kept = _module(root, upstream)
        if kept is not None and (kept / "HEAD").is_file():
            return _attach(upstream, path, kept)
        with _incoming(path) as room:
            return _first(upstream, path, room, kept, mirror, offline, progress)


def _occupied(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _fetching(root: Path, upstream: Upstream) -> Path:
    """The file whose lock a process holds while it makes this checkout; outside the project's status."""
    store = git_dir(root) / "graft" if (root / ".git").exists() else (root / upstream.path).parent
    return store / f"{_INCOMING}-{upstream.path.replace('/', '+')}.lock"


def _first(
    upstream: Upstream,
    path: Path,
    room: Path,
    kept: Path | None,
    mirror: Path | None,
    offline: bool,
    progress: Progress,
) -> Obtained:
    """The checkout from the first source that proves the pin."""
    tried: list[Attempt] = []
    unproven: Unproven | None = None
    for source in every(upstream, room, mirror, offline, progress):
        if isinstance(source, str):
            tried.append(Attempt(*source.split(": ", 1)))
            continue
        tree = _empty(room, upstream)
        progress(f"{upstream.name}: {source.shown}")
        try:
            shown, absent = source.bring(tree)
            _check_out(upstream, tree, absent)
        except GraftError as error:
            tried.append(Attempt(source.shown, error.what))
            unproven = error if isinstance(error, Unproven) else unproven
            continue
        return _placed(upstream, path, tree, kept, shown, absent, tried)
    if unproven is not None:
        listed = "".join(f"\n  - {attempt}" for attempt in tried)
        raise Unproven(
            f"no source gave what the lock pins, and one gave something else; tried:{listed}",
            where=upstream.name,
            remedy=unproven.remedy,
        )
    raise unreachable(upstream, tried, offline)


def _standing(upstream: Upstream, path: Path) -> Obtained:
    if not (path / ".git").exists():
        raise GraftError(
            "holds files but is not a git checkout",
            where=str(path),
            remedy=f"move {path} away, then run again",
        )
    try:
        at = position(path)
    except GraftError as error:
        raise GraftError(
            error.what, where=str(path), remedy=error.remedy or f"move {path} away, then run again"
        ) from error
    if at.head != upstream.commit:
        held = (
            "" if has_commit(path, upstream.commit) else f"git -C {path} fetch --depth 1 origin {upstream.commit} && "
        )
        raise GraftError(
            f"HEAD is at {at.head}, the lock pins {upstream.commit}; nothing was changed",
            where=str(path),
            remedy=f"keep your work, then: {held}git -C {path} checkout --detach {upstream.commit}",
        )
    if at.tree != upstream.tree:
        raise GraftError(
            f"the pinned commit has the tree {at.tree}, the lock says {upstream.tree}",
            where=str(path),
            remedy=f"correct `tree` in the lock: git -C {path} rev-parse HEAD^{{tree}}",
        )
    absent = tuple(name for name in _listed_absent(at.git_dir) if not os.path.lexists(path / name))
    return Obtained(path, at.git_dir, "the checkout that is there", False, absent)


def _listed_absent(store: Path) -> tuple[str, ...]:
    try:
        listed = os.fsdecode((store / ABSENT).read_bytes())
    except FileNotFoundError:
        return ()
    return tuple(name for name in listed.split("\0") if name)


def _module(root: Path, upstream: Upstream) -> Path | None:
    """Where the project's repository keeps this submodule's git directory; None when the project is no repository."""
    if not (root / ".git").exists():
        return None
    name = _submodule(root, upstream) or upstream.path
    store = Path(git_text(["rev-parse", "--git-path", f"modules/{name}"], cwd=root))
    return Path(os.path.abspath(root / store))


def _submodule(root: Path, upstream: Upstream) -> str | None:
    """The name ``.gitmodules`` gives to the upstream's path."""
    if not (root / ".gitmodules").is_file():
        return None
    keys = ["config", "-f", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.path$"]
    for entry in os.fsdecode(run(keys, cwd=root).out).split("\0"):
        key, _, value = entry.partition("\n")
        if value == upstream.path:
            return key[len("submodule.") : -len(".path")]
    return None


@contextmanager
def _incoming(path: Path) -> Iterator[Path]:
    """A directory beside ``path`` for what is not proven yet; those that a killed run left are removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{_INCOMING}-{path.name}-"
    for old in path.parent.glob(prefix + "*"):
        with _held(old) as free:
            if free:
                shutil.rmtree(old, ignore_errors=True)
    room = path.parent / f"{prefix}{os.getpid()}"
    room.mkdir()
    try:
        with _held(room):
            # Invisible to the status of the project around it.
            (room / ".gitignore").write_text("*\n", encoding="ascii")
            yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _held(room: Path) -> Iterator[bool]:
    """Hold the directory's lock; False when a living process has it."""
    handle = os.open(room, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def _empty(room: Path, upstream: Upstream) -> Path:
    """A new repository without commits in ``room``, with nothing of the user's templates or defaults in it."""
    tree = room / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    git(["init", "-q", "--template=", "--object-format=sha1", "-b", "graft", str(tree)], cwd=room)
    for key, value in (
        ("core.autocrlf", "false"),
        ("core.eol", "lf"),
        ("advice.detachedHead", "false"),
        ("remote.origin.url", upstream.url),
        ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
    ):
        git(["config", "--", key, value], cwd=tree)
    return tree


def _check_out(upstream: Upstream, tree: Path, absent: tuple[str, ...]) -> None:
    """Put the pin into the working tree and prove that it is what the lock says."""
    found = git_text(["rev-parse", "--verify", f"{upstream.commit}^{{tree}}"], cwd=tree)
    if found != upstream.tree:
        raise Unproven(
            f"the pinned commit has the tree {found} there, the lock says {upstream.tree}",
            where=upstream.name,
            # A commit's id stands for its tree: the lock is what errs.
            remedy=f"correct the lock: `tree` is {found} where `commit` is {upstream.commit}",
        )
    (tree / ".git" / "HEAD").write_text(upstream.commit + "\n", encoding="ascii")
    if absent:
        (tree / ".git" / ABSENT).write_bytes(b"".join(os.fsencode(name) + b"\0" for name in absent))
    _write_files(upstream, tree, absent, {})
    odd = git_text(["status", "--porcelain", "-z", "--untracked-files=all"], cwd=tree)
    if odd:
        shown = ", ".join(odd.split("\0")[:3])
        raise GraftError(f"the files on disk do not come out as the tree says: {shown}")


def _write_files(upstream: Upstream, tree: Path, absent: tuple[str, ...], env: dict[str, str]) -> None:
    git([*NO_HOOKS, "read-tree", upstream.commit], cwd=tree, env=env)
    if absent:
        names = b"".join(os.fsencode(name) + b"\0" for name in absent)
        # Marked so, the files neither count as deleted nor make git look for what is not there.
        git(["update-index", "-z", "--skip-worktree", "--stdin"], cwd=tree, env=env, input=names)
    git([*NO_HOOKS, "checkout-index", "-q", "--all", "--force", "-u"], cwd=tree, env=env)


def _placed(
    upstream: Upstream,
    path: Path,
    tree: Path,
    kept: Path | None,
    source: str,
    absent: tuple[str, ...],
    tried: list[Attempt],
) -> Obtained:
    """Move a proven checkout to its place, with its git directory where a submodule has it."""
    guard(tree)
    (tree / ".git" / "FETCH_HEAD").unlink(missing_ok=True)
    if kept is not None and _same_disk(kept, tree):
        _absorb(path, tree, kept)
    _move(tree, path)
    guard(path)
    if kept is not None:
        _register(upstream, path)
    return Obtained(path, git_dir(path), source, True, absent, tuple(tried))


def _move(tree: Path, path: Path) -> None:
    try:
        os.rename(tree, path)
    except OSError as error:
        raise GraftError(
            f"could not be moved into place: {error.strerror}", where=str(path), remedy="run again"
        ) from error


def _same_disk(kept: Path, tree: Path) -> bool:
    kept.parent.mkdir(parents=True, exist_ok=True)
    return kept.parent.stat().st_dev == tree.stat().st_dev


def _absorb(path: Path, tree: Path, kept: Path) -> None:
    git(["config", "core.worktree", os.path.relpath(path, kept)], cwd=tree)
    # Over an empty directory only: what lies there otherwise is somebody's.
    try:
        os.rename(tree / ".git", kept)
    except OSError as error:
        if (kept / "HEAD").is_file():
            raise GraftError("git has fetched it meanwhile", where=str(kept), remedy="run again") from error
        raise GraftError(
            f"the git directory could not be moved there: {error.strerror}",
            where=str(kept),
            remedy=f"move {kept} away, then run again",
        ) from error
    (tree / ".git").write_text(f"gitdir: {os.path.relpath(kept, path)}\n", encoding="utf-8")


def _register(upstream: Upstream, path: Path) -> None:
    """Tell the project's repository that this submodule is in use, as ``git submodule init`` does."""
    root = Path(os.path.normpath(str(path)[: -len(upstream.path)]))
    name = _submodule(root, upstream)
    if name is None:
        return
    for key, value in ((f"submodule.{name}.active", "true"), (f"submodule.{name}.url", upstream.url)):
        if config_get(root, key) is None:
            git(["config", "--local", "--", key, value], cwd=root)


def _attach(upstream: Upstream, path: Path, kept: Path) -> Obtained:
    """A checkout was removed and its git directory kept (``git submodule deinit``, a kill): check it out again."""
    # Its configured working tree may be gone, and git would refuse to start over that.
    env = {"GIT_DIR": str(kept), "GIT_WORK_TREE": str(kept)}
    there = git_text(["rev-parse", "HEAD^{commit}", "HEAD^{tree}"], cwd=kept, env=env).split("\n")
    if there != [upstream.commit, upstream.tree]:
        raise GraftError(
            f"this git directory is left from an earlier checkout; its HEAD is {there[0]}, tree {there[1]}; "
            f"the lock pins {upstream.commit}, tree {upstream.tree}",
            where=str(kept),
            remedy=f"if nothing in it is wanted, move {kept} away, then run again",
        )
    absent = _listed_absent(kept)
    with _incoming(path) as room:
        tree = room / "tree"
        tree.mkdir()
        env["GIT_WORK_TREE"] = str(tree)
        _write_files(upstream, tree, absent, env)
        git(["config", "core.worktree", os.path.relpath(path, kept)], cwd=tree, env=env)
        (tree / ".git").write_text(f"gitdir: {os.path.relpath(kept, path)}\n", encoding="utf-8")
        _move(tree, path)
    guard(path)
    return Obtained(path, kept, f"the git directory kept in {kept}", True, absent)


def unreachable(upstream: Upstream, tried: list[Attempt], offline: bool) -> Unreachable:
    lines = "".join(f"\n  - {attempt}" for attempt in tried)
    remedies = [
        f"git config --global url.file:///DIR/REPOSITORY.insteadOf {upstream.url}",
        "or python apply.py --mirror DIR with a directory of clones",
    ]
    if upstream.archive is not None:
        wanted = f"{upstream.archive.distribution} {upstream.archive.version}"
        remedies.append(f"or export PIP_INDEX_URL=... with an index that has {wanted}")
    if offline:
        remedies.insert(0, "leave out --offline")
    return Unreachable(
        f"no source gave commit {upstream.commit}; tried:{lines}", where=upstream.name, remedy="; ".join(remedies)
    )
