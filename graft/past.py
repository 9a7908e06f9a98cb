"""An upstream's history for ``upgrade`` and ``newest``: on this machine, or fetched once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graft.actions import Options
from graft.errors import GraftError
from graft.fetch import Remote, mirrored, published
from graft.git import git, git_dir, has_commit, watch
from graft.history import History, find, is_whole
from graft.lock import Upstream


def obtain(upstream: Upstream, root: Path, commit: str, options: Options) -> History:
    """A history that leads to ``commit``: ``--git-dir``, the checkout's own, a mirror, or one fetched from the URL.

    What is fetched is kept in the project's own git directory, bare and whole, and brought up to date when asked again.

    Raises:
        GraftError: none can be had; says what to do.
    """
    if options.git_dir is not None:
        return find(upstream, root, git_dir=options.git_dir)
    for place in _mirrors(upstream, options):
        if is_whole(place) and has_commit(place, commit):
            return History(place)
    try:
        here = find(upstream, root)
    except GraftError:
        if options.offline:
            raise
    else:
        if options.offline or here.has(commit):
            return here
        here.close()
    return History(_kept(upstream, root, commit, options))


def _mirrors(upstream: Upstream, options: Options) -> Iterator[Path]:
    if options.mirror is not None:
        for remote in mirrored(upstream, options.mirror):
            if isinstance(remote, Remote) and remote.local is not None:
                yield remote.local


def _kept(upstream: Upstream, root: Path, commit: str, options: Options) -> Path:
    place = git_dir(root) / "graft-history" / f"{upstream.name}.git"
    if not (place / "HEAD").is_file():
        place.mkdir(parents=True, exist_ok=True)
        git(["init", "-q", "--bare"], cwd=place)
    if not has_commit(place, commit):
        remote = published(upstream, root)
        options.progress(f"{upstream.name}: its history from {remote.shown}, kept for the next time")
        words = [
            *remote.settings,
            "-c",
            "gc.auto=0",
            "fetch",
            "--progress",
            "--no-recurse-submodules",
            "--tags",
            "--force",
        ]
        words += ["--", remote.address, "+refs/heads/*:refs/heads/*"]
        watch(words, cwd=place, progress=options.progress, silence=remote.patience)
    return place
