"""Getting the pin's objects from another repository: on a network, in a mirror, or in one that lacks some of them."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.errors import GraftError
from graft.git import NO_HOOKS, Progress, git, git_text, has_commit, redact, run, watch
from graft.lock import Upstream

SILENCE = 30.0
"""Seconds without a word from a remote after which it counts as dead."""

_DIRECT_SILENCE = 10.0
"""The same where a mirror is configured, most often because there is no way to the URL itself."""

_STAND_IN = "graft-direct://url"


@dataclass(frozen=True)
class Remote:
    """An address to fetch from.

    Attributes:
        address: as git takes it.
        shown: in words, without credentials.
        local: its place when it is a repository on this machine.
        settings: git's options without which the address does not work.
        patience: seconds without a word after which it counts as dead.
    """

    address: str
    shown: str
    local: Path | None
    settings: tuple[str, ...] = ()
    patience: float = SILENCE


def mirrored(upstream: Upstream, mirror: Path) -> Iterator[Remote | str]:
    """The repositories of ``upstream`` below ``mirror``; for one that cannot serve, a text that says why."""
    owner, name = _owner_and_name(upstream.url)
    found = False
    for layout in dict.fromkeys(
        (f"{owner}+{name}/repo", f"{owner}+{name}", f"{owner}/{name}", name, upstream.name, ".")
    ):
        for suffix in ("", ".git"):
            place = Path(os.path.abspath(mirror / (layout + suffix)))
            if not ((place / "HEAD").is_file() or (place / ".git").exists()):
                continue
            found = True
            held = run(["cat-file", "-e", f"{upstream.commit}^{{tree}}"], cwd=place)
            if held.code == 0:
                yield Remote(place.as_uri(), f"mirror {place}", place)
            else:
                yield f"mirror {place}: does not hold the commit ({held.err.splitlines()[0]})"
    if not found:
        yield f"mirror {mirror}: holds no {owner}+{name}/repo, {owner}/{name}, {owner}+{name} or {name}"


def _owner_and_name(url: str) -> tuple[str, str]:
    parts = url.rstrip("/").removesuffix(".git").replace(":", "/").split("/")
    return (parts[-2] if len(parts) > 1 else "", parts[-1])


def published(upstream: Upstream, cwd: Path) -> Remote:
    """The upstream's URL as git is configured to reach it."""
    used = rewritten(upstream.url, cwd)
    shown = redact(upstream.url)
    if used != upstream.url:
        shown = f"{redact(used)} (git is configured to use it instead of {shown})"
    return Remote(upstream.url, shown, local_place(used))


def direct(upstream: Upstream, cwd: Path) -> Remote | None:
    """The upstream's URL past git's ``insteadOf``; None where git does not rewrite it.

    git rewrites an address once. A word that stands for the URL in one call's own settings comes out as the URL, which
    no other rewrite then touches.
    """
    if "=" in upstream.url or rewritten(upstream.url, cwd) == upstream.url:  # `-c` ends a key at its first `=`
        return None
    settings = ("-c", f"url.{upstream.url}.insteadOf={_STAND_IN}")
    shown = f"{redact(upstream.url)} itself, past git's insteadOf"
    return Remote(_STAND_IN, shown, local_place(upstream.url), settings, _DIRECT_SILENCE)


def rewritten(url: str, cwd: Path) -> str:
    """The address that git itself would use for ``url``, by its ``insteadOf``."""
    return git_text(["ls-remote", "--get-url", "--", url], cwd=cwd)


def local_place(address: str) -> Path | None:
    """The directory that an address names on this machine, None for any other address."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return Path(address) if address.startswith("/") else None


def fetch(upstream: Upstream, tree: Path, remote: Remote, progress: Progress) -> tuple[str, ...]:
    """Bring the pin's objects into ``tree``; returns the paths whose content a local source lacks."""
    try:
        _fetch_commit(upstream, tree, remote, progress)
    except GraftError:
        if remote.local is None or not remote.local.is_dir() or not has_commit(remote.local, upstream.commit):
            raise
        there, lacking = _inventory(remote.local, upstream.commit)
        if not lacking:
            raise
        return _salvage(upstream, tree, remote.local, there, lacking)
    return ()


def _fetch_commit(upstream: Upstream, tree: Path, remote: Remote, progress: Progress) -> None:
    options = [
        *remote.settings,
        *("-c", "fetch.fsckObjects=true", "-c", "http.lowSpeedLimit=1000", "-c", f"http.lowSpeedTime={SILENCE:.0f}"),
        *("-c", "gc.auto=0", "-c", "maintenance.auto=false", *NO_HOOKS),
        *("fetch", "--progress", "--no-tags", "--no-recurse-submodules"),
    ]

    def ask(depth: str, what: str) -> None:
        words = [*options, depth, "--", remote.address, what]
        watch(words, cwd=tree, progress=progress, silence=remote.patience)

    try:
        ask("--depth=1", upstream.commit)
    except GraftError as refused:
        # A server may serve the tips of its refs only. Then the pin is a tip, or it lies behind one.
        hidden = any(word in refused.what for word in ("not our ref", "unadvertised", "remote ref"))
        if not hidden or upstream.ref == upstream.commit:
            raise
        try:
            ask("--depth=1", upstream.ref)
            if not has_commit(tree, upstream.commit):
                ask("--unshallow", upstream.ref)
        except GraftError as error:
            raise GraftError(f"{refused.what}; and by its ref: {error.what}") from error
    if not has_commit(tree, upstream.commit):
        raise GraftError(f"{upstream.ref} there does not lead to {upstream.commit}")


def _inventory(source: Path, commit: str) -> tuple[list[str], set[str]]:
    """The object ids of a commit's tree that a repository has, and those that it lacks."""
    words = ["rev-list", "--objects", "--no-object-names", "--missing=print", "--no-walk", commit]
    listed = git_text(words, cwd=source).split("\n")
    return [line for line in listed if not line.startswith("?")], {line[1:] for line in listed if line.startswith("?")}


def _salvage(upstream: Upstream, tree: Path, source: Path, there: list[str], lacking: set[str]) -> tuple[str, ...]:
    """Copy what a repository that lacks some files' contents has of the pin.

    The new repository is marked as a partial clone of the upstream's URL: git knows then that objects may be absent,
    and fetches them by itself wherever that URL can be reached.
    """
    names = "".join(f"{name}\n" for name in there).encode()
    pack = git(["pack-objects", "--stdout", "--missing=allow-any", "-q"], cwd=source, input=names)
    git(["index-pack", "--stdin", "--promisor", "--fix-thin"], cwd=tree, input=pack)
    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.partialCloneFilter", "blob:none"),
    ):
        git(["config", key, value], cwd=tree)
    (tree / ".git" / "shallow").write_text(upstream.commit + "\n", encoding="ascii")
    absent: list[str] = []
    for entry in git_text(["ls-tree", "-r", "-z", "--full-tree", upstream.commit], cwd=tree).split("\0"):
        about, _, name = entry.partition("\t")
        if name and about.split()[2] in lacking:
            absent.append(name)
    if not absent:
        raise GraftError("lacks objects of the pin that are no files' contents", where=str(source))
    return tuple(absent)
