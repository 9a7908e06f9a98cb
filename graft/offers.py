"""Where a pin may come from, in order: a folder of mirrors, git's mirror of the URL, the URL, an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.archive import unpack
from graft.fetch import Remote, direct, fetch, mirrored, published
from graft.git import Progress
from graft.lock import Archive, Upstream
from graft.registry import configured, download


@dataclass(frozen=True)
class Offer:
    """A source to try.

    Attributes:
        shown: what it is, in words.
        bring: puts the pin into a new repository; where it came from, in words, and the paths whose content is absent.
    """

    shown: str
    bring: Callable[[Path], tuple[str, tuple[str, ...]]]


def every(
    upstream: Upstream, room: Path, mirror: Path | None, offline: bool, progress: Progress
) -> Iterator[Offer | str]:
    """The sources in the order in which they are tried; as a text, ``SOURCE: WHY``, one that is known not to serve.

    Args:
        room: a directory for what is downloaded.
    """
    past = direct(upstream, room)
    urls = (published(upstream, room), *((past,) if past else ()))
    for remote in (*(mirrored(upstream, mirror) if mirror else ()), *urls):
        if isinstance(remote, str):
            yield remote
        elif offline and remote.local is None:
            yield f"{remote.shown}: not asked, offline"
        else:
            yield _repository(upstream, remote, progress)
    archive = upstream.archive
    if archive is None:
        return
    given = mirror / archive.file if mirror else None
    if given is not None and given.is_file():
        yield _archive_here(upstream, archive, given)
    file = room / archive.file

    def downloaded(tree: Path) -> tuple[str, tuple[str, ...]]:
        where = download(archive, configured(), file, offline=offline, progress=progress)
        unpack(file, upstream, archive, tree)
        return f"registry archive {archive.file} from {where}", ()

    yield Offer(f"registry archive {archive.file}", downloaded)


def _repository(upstream: Upstream, remote: Remote, progress: Progress) -> Offer:
    return Offer(remote.shown, lambda tree: (remote.shown, fetch(upstream, tree, remote, progress)))


def _archive_here(upstream: Upstream, archive: Archive, file: Path) -> Offer:
    def unpacked(tree: Path) -> tuple[str, tuple[str, ...]]:
        unpack(file, upstream, archive, tree)
        return f"archive {file}", ()

    return Offer(f"archive {file}", unpacked)
