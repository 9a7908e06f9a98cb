"""A run's checkpoints: which there are, which are whole, and a copy with another learning rate."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from runners.supervise import whole
from runners.supervise.checkpoint_names import Checkpoint, in_output
from runners.supervise.command import Command

__all__ = ["Checkpoint", "Unfit", "complaint", "found", "last_good", "older", "quarantine", "rescaled"]

HERE = Path(__file__).parent
ASIDE = "damaged-"
"""No upstream's pattern begins so: transformers counts, and removes, what begins with checkpoint-."""
KEPT = 2
CANNOT_LOOK = 3
"""How weights.py ends where nothing is known to be wrong with a file, and it cannot look into it."""
SHARDED = ("global_step*", "optimizer_*")

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

    Raises Unfit where that interpreter cannot look into weights that seem whole.
    """
    if not os.path.lexists(checkpoint.path):
        return f"{checkpoint.path} is not there"
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
    said = _run(command, "weights.py", read)
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


def _best(checkpoint: Checkpoint) -> str | None:
    """The name of the best checkpoint so far, where transformers wrote one down."""
    state = checkpoint.path / "trainer_state.json"
    if not state.is_file():
        return None
    path = json.loads(state.read_text(encoding="utf-8")).get("best_model_checkpoint")
    return Path(path).name if path else None


def rescaled(checkpoint: Checkpoint, command: Command, factor: float, into: Path) -> Checkpoint:
    """A copy below `into` whose optimizer and scheduler carry `factor` times the learning rate.

    transformers' resume takes the rate from optimizer.pt and scheduler.pt, whatever the command line says. Files that
    do not change are hard links. Where no file of the checkpoint holds the rate it is returned as it is: there the
    command line counts.

    Raises Unfit where the optimizer is sharded over ranks, and where the rate is not found in it.
    """
    family = command.family
    if family.rescale and checkpoint.path.is_dir():
        sharded = [item.name for pattern in SHARDED for item in checkpoint.path.glob(pattern) if item.is_dir()]
        if sharded:
            raise Unfit(
                f"{checkpoint.path / sharded[0]} holds an optimizer that DeepSpeed or FSDP sharded: its rate cannot be "
                "changed here. Resume with the old rate, or start a new run from these weights with the new one"
            )
    changed = [name for name in family.rescale if (checkpoint.path / name).is_file()]
    if not changed:
        return checkpoint
    made, partial = into / checkpoint.path.name, into / f".{checkpoint.path.name}.partial"
    for folder in (partial, made):
        if folder.exists():
            shutil.rmtree(folder)
    partial.mkdir(parents=True)
    for path in whole.files_of(checkpoint.path):
        target = partial / path.relative_to(checkpoint.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if str(path.relative_to(checkpoint.path)) not in changed:
            _link(path, target)
    pairs = [str(folder / name) for name in changed for folder in (checkpoint.path, partial)]
    said = _run(command, "rescale.py", [repr(factor), *pairs])
    if said.returncode:
        raise Unfit(f"the rate of {checkpoint.path} could not be changed: {said.stderr.strip()[-500:]}")
    partial.rename(made)
    return Checkpoint(made, checkpoint.step)


def _link(path: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        os.link(path, target)
        return
    shutil.copy2(path, target)  # another file system, or one without hard links


def _run(command: Command, script: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command.python, str(HERE / script), *words],
        env={**os.environ, **command.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
