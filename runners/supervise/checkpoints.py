"""A run's checkpoints: which there are and which are whole."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from runners.supervise import whole
from runners.supervise.checkpoint_names import Checkpoint, in_output, listed, place
from runners.supervise.command import Command

__all__ = ["Checkpoint", "Unfit", "aside", "complaint", "found", "last_good", "mark", "older", "quarantine"]

HERE = Path(__file__).parent
ASIDE = "damaged-"
"""No upstream's pattern begins so: transformers counts, and removes, what begins with checkpoint-."""
KEPT = 2
CANNOT_LOOK = 3
"""How weights.py ends where nothing is known to be wrong with a file, and it cannot look into it."""

VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
"""What a look at something says that another process has just removed, and at a link that leads nowhere."""

_judged: dict[tuple[object, ...], str | None] = {}


class Unfit(Exception):
    """A checkpoint that cannot be looked into, or whose rate cannot be changed; the message says why and what to do."""


def found(command: Command) -> list[Checkpoint]:
    """The checkpoints of a run, earliest step first, also those that were cut short."""
    return in_output(command)


def complaint(checkpoint: Checkpoint, command: Command, *, finite: bool = True) -> str | None:
    """Why a checkpoint cannot be gone on from, or None.

    Looks for what has to be there, and at every file: torch's archives by their CRC, safetensors by header and length,
    JSON by parsing, the shards of an index. With `finite`, also whether the weights hold NaN or Inf, read in the
    command's own interpreter, which needs numpy, and torch for torch's archives. Judges the same bytes once a process.
    What vanishes meanwhile, as when upstream keeps so many only, is not there.

    Raises Unfit where that interpreter cannot look into weights that seem whole.
    """
    try:
        return _complaint(checkpoint, command, finite)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        return f"{checkpoint.path} is not there, or not as a whole: {error}"


def _complaint(checkpoint: Checkpoint, command: Command, finite: bool) -> str | None:
    files = whole.files_of(checkpoint.path)
    stats = tuple((str(path), status.st_size, status.st_mtime_ns) for path in files if (status := path.stat()))
    key = (checkpoint.path, stats, command.restores, command.family.name, finite)
    if key not in _judged:
        _judged[key] = (
            _missing(checkpoint, command)
            or whole.damage(files)
            or (_not_finite(checkpoint, command, files) if finite else None)
        )
    return _judged[key]


def _missing(checkpoint: Checkpoint, command: Command) -> str | None:
    if not checkpoint.path.is_dir():
        return None
    names = [item.name for item in checkpoint.path.iterdir()]
    wanted = (*command.family.complete, *(command.family.state if command.restores == "all" else ()))
    for either in wanted:
        if not any(fnmatch(name, pattern) for name in names for pattern in either.split("|")):
            return f"{checkpoint.path} is incomplete: it has no {either.replace('|', ' or ')}"
    return None


def _not_finite(checkpoint: Checkpoint, command: Command, files: list[Path]) -> str | None:
    chosen = [path for path in files if any(fnmatch(path.name, pattern) for pattern in command.family.weights)]
    for path in (item for item in chosen if item.suffix == ".json"):
        if name := whole.odd_number(path):
            return f"{path} holds {name}"
    read = [str(path) for path in chosen if path.suffix in (".safetensors", *whole.TORCH)]
    if not read:
        return None
    said = run_script(command, "weights.py", read)
    if said.returncode == CANNOT_LOOK:
        raise Unfit(
            f"whether the weights of {checkpoint.path} are finite cannot be seen in {command.python}: "
            f"{said.stderr.strip()[-500:]}. Install what is missing there, or leave `weights` out of the family's row"
        )
    if said.returncode:
        return f"the weights of {checkpoint.path} cannot be read: {said.stderr.strip()[-500:]}"
    found = json.loads(said.stdout.splitlines()[-1])["complaint"]
    return str(found) if found else None


def last_good(command: Command, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint of the latest step that nothing is wrong with; `say` hears what it passed over, and why."""
    for item in reversed(found(command)):
        why = complaint(item, command)
        if why is None:
            return item
        say(f"passes over {item.path.name}: {why}")
    return None


def quarantine(checkpoint: Checkpoint) -> Path:
    """Renames a checkpoint so that no upstream takes it for one, and returns its new path. Removes nothing."""
    path, number = checkpoint.path, 1
    aside = path.with_name(f"{ASIDE}{path.name}")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{ASIDE}{number}-{path.name}")
    return path.rename(aside)


def older(command: Command) -> list[Checkpoint]:
    """What may be removed to free space: all but the last two whole ones, and the best that the trainer named.

    Empty where no checkpoint is whole. Weights are not read.
    """
    everything = found(command)
    good: list[Checkpoint] = []
    for item in reversed(everything):
        if len(good) < KEPT and complaint(item, command, finite=False) is None:
            good.append(item)
    if not good:
        return []
    best = {name for item in good if (name := _best(item))}
    return [item for item in everything if item not in good and item.path.name not in best]


def aside(command: Command) -> list[Checkpoint]:
    """The checkpoints that `quarantine` has moved aside, by this run or an earlier one, in the order of that."""
    folder, pattern = place(command)
    found = []
    for path in listed(folder):
        match = re.fullmatch(rf"{ASIDE}(?:\d+-)?(?P<name>.+)", path.name)
        step = re.search(pattern + "$", match["name"]) if match else None
        if step:
            found.append((_moved(path), Checkpoint(path, int(step["step"]))))
    return [item for moved, item in sorted(found, key=lambda each: (each[0], each[1].path)) if moved]


def _moved(path: Path) -> int:
    """When something was renamed: a rename changes the time of the inode; 0 where it has vanished."""
    try:
        return path.lstat().st_ctime_ns
    except FileNotFoundError:
        return 0


def mark(checkpoint: Checkpoint, command: Command) -> str:
    """A checkpoint by its path and its content's age: one that is written anew under an old name is another.

    What counts is the file that makes it complete, or the file that it is: the time of a folder changes with every note
    that somebody puts into it. An incomplete one is known by the inode of its folder. Inodes are not asked otherwise:
    network file systems give new ones when they are mounted again.
    """
    path = checkpoint.path
    try:
        if not path.is_dir():
            return f"{path}@{path.stat().st_mtime_ns}"
        names = sorted(item.name for item in path.iterdir())
        wanted = [pattern for either in command.family.complete for pattern in either.split("|")]
        for pattern in (*wanted, *command.family.weights):
            for name in names:
                if fnmatch(name, pattern):
                    return f"{path}@{name}:{(path / name).stat().st_mtime_ns}"
        return f"{path}@inode:{path.stat().st_ino}"
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        return f"{path}@gone"


def _best(checkpoint: Checkpoint) -> str | None:
    """The name of the best checkpoint so far, where transformers wrote one down."""
    try:
        text = (checkpoint.path / "trainer_state.json").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    path = json.loads(text).get("best_model_checkpoint")
    return Path(path).name if path else None


def run_script(command: Command, script: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder in the command's own interpreter."""
    return subprocess.run(
        [command.python, str(HERE / script), *words],
        env={**os.environ, **command.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
