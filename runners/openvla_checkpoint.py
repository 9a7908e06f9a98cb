"""The checkpoint that an evaluation loads: a trained one, with the action statistics of every suite it is asked about.

Upstream's `get_vla` takes the statistics of `dataset_statistics.json` alone, which after fine-tuning holds the
downstream data set only: on another suite the evaluation would stop. So the evaluation gets a folder of links to the
checkpoint's files, with a `dataset_statistics.json` of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STATISTICS = "dataset_statistics.json"


class NoCheckpoint(OSError):
    """A folder holds no checkpoint, more than one, or no statistics of a suite."""


def trained_in(run_root: Path) -> Path:
    """The run folder below `run_root` that holds a checkpoint: upstream names it after the run's options.

    Raises NoCheckpoint unless there is exactly one.
    """
    found = sorted(path.parent for path in run_root.glob("*/config.json")) if run_root.is_dir() else []
    if len(found) != 1:
        raise NoCheckpoint(
            f"{run_root} holds {len(found)} merged checkpoints where one is expected"
            + (f": {', '.join(path.name for path in found)}" if found else ": was --finetune save_steps changed?")
        )
    return found[0]


def statistics_of(checkpoint: Path, extra: Iterable[Path] = ()) -> dict[str, Any]:
    """Action statistics by data set: the checkpoint's configuration, then `extra` files, then its own file.

    Raises NoCheckpoint for a file that cannot be read.
    """
    known = config_statistics(checkpoint)
    for path in (*extra, checkpoint / STATISTICS):
        if path.is_file():
            known |= _object(path)
    return known


def config_statistics(checkpoint: Path) -> dict[str, Any]:
    """The action statistics in the checkpoint's configuration, by data set.

    Raises NoCheckpoint where there is none that can be read.
    """
    return dict(_object(checkpoint / "config.json").get("norm_stats") or {})


def _object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise NoCheckpoint(
            f"{path} cannot be read ({type(error).__name__}: {error}), and with it the action statistics: fetch or "
            "write it again"
        ) from None


def require_suite(suite: str, known: Iterable[str], where: Path | str) -> None:
    """Upstream looks for `suite` and for `suite` + `_no_noops`.

    Raises NoCheckpoint with the remedy where neither is known.
    """
    names = sorted(known)
    if not {suite, f"{suite}_no_noops"} & set(names):
        raise NoCheckpoint(
            f"{where} has no action statistics for {suite} (it has {', '.join(names) or 'none'}): name a "
            f"{STATISTICS} that holds them with --statistics, such as that of a run trained on {suite}"
        )


def view(checkpoint: Path, folder: Path, suite: str | None, extra: Iterable[Path] = ()) -> None:
    """Makes `folder`: links to the files of `checkpoint`, and the statistics of all its suites.

    Raises NoCheckpoint where there are none for `suite`, before anything is written; None asks for none.
    """
    known = statistics_of(checkpoint, extra)
    if suite is not None:
        require_suite(suite, known, checkpoint)
    folder.mkdir(parents=True)
    for path in sorted(checkpoint.iterdir()):
        if path.name != STATISTICS:
            (folder / path.name).symlink_to(path.resolve())
    (folder / STATISTICS).write_text(json.dumps(known, indent=2), encoding="utf-8")
