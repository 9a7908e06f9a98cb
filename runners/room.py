"""Room on disks: what is free, what is needed, and what is not written below a repository."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from runners.places import Places, Refused

GIB = 1 << 30


def repository_above(folder: Path) -> Path | None:
    """The git repository that `folder` lies in, whether it exists yet or not; None where there is none."""
    real = folder.resolve()
    return next((above for above in (real, *real.parents) if (above / ".git").exists()), None)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def refuse_below(places: Places, written: Mapping[str, int | None]) -> None:
    """Refuses a run that would write a GiB or more below a repository, unless that was allowed.

    `written` maps the option that moves a place (`--work`, `--cache`, `--hf-home`, `--data-root`) to the bytes expected
    there, None where they cannot be known beforehand, as with a model that is still to be downloaded. With `--hf-home`
    the folder of the hub's models is meant, wherever it lies.

    Raises Refused naming place, size and option.
    """
    if places.allowed_below:
        return
    folders = {"--work": places.work, "--cache": places.cache, "--hf-home": places.hub}
    if places.data_root is not None:
        folders["--data-root"] = places.data_root
    for option, amount in written.items():
        above = repository_above(folders[option])
        if above is None or (amount is not None and amount < GIB):
            continue
        moved = "HF_HUB_CACHE" if option == "--hf-home" and places.origins["hub"] == "$HF_HUB_CACHE" else option
        size = "an amount not known beforehand" if amount is None else f"about {amount / GIB:.1f} GiB"
        raise Refused(
            f"{size} would be written to {folders[option]}, which lies below the repository {above}: choose a folder "
            f"outside with {moved}, or say --allow-below-repository"
        )


def free(folder: Path) -> int:
    """Bytes that this user may still write to the disk of `folder`, which need not exist yet."""
    real = folder.resolve()
    return shutil.disk_usage(next(above for above in (real, *real.parents) if above.exists())).free


def need(folder: Path, amount: int, what: str, option: str = "--work") -> None:
    """Refuses to begin `what`, which writes about `amount` bytes to `folder`, where there is no room for them.

    Raises Refused naming folder, room, need and `option`, which moves the folder.
    """
    room = free(folder)
    if room < amount:
        raise Refused(
            f"{what} needs about {in_words(amount)} in {folder}, where {in_words(room)} are free: make room, or choose "
            f"a folder on another disk with {option}"
        )


def in_words(amount: int) -> str:
    """Bytes for a person to read."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB // 10 else f"{amount / (1 << 20):.1f} MiB"
