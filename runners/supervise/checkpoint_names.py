"""Which files and folders are checkpoints of a command, and of which step."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runners.supervise import outputs
from runners.supervise.arguments import relative

if TYPE_CHECKING:
    from runners.supervise.command import Command
    from runners.supervise.families import Family


@dataclass(frozen=True)
class Checkpoint:
    """`path` is a folder or a file; `step` counts the whole run's optimizer steps."""

    path: Path
    step: int


def in_output(command: Command) -> list[Checkpoint]:
    """What lies there by name, whole or not, earliest step first."""
    family = command.family
    if not family.checkpoints:
        return []
    if family.output == "openvla_finetune":
        return _beside(command)
    folder, name = place(command)
    found = []
    for path in listed(folder):
        if match := re.fullmatch(name, path.name):
            found.append(Checkpoint(path, int(match["step"])))
    return sorted(found, key=lambda item: (item.step, item.path))


def place(command: Command) -> tuple[Path, str]:
    """The folder that a command's checkpoints lie in, and the regular expression of their names."""
    family = command.family
    if family.output == "openvla_finetune":
        return relative(command.get("output") or "", command.folder), family.checkpoints
    folder, _, name = family.checkpoints.rpartition("/")
    return command.output / folder, name


def _beside(command: Command) -> list[Checkpoint]:
    """Checkpoints of all parts of a run of openvla's fine-tuning, which lie beside its folder."""
    names = outputs.finetune_names(command)
    folder, name = place(command)
    found = []
    for path in listed(folder):
        cut = re.search(name + "$", path.name)
        if cut and (part := names.fullmatch(path.name[: cut.start()])):
            with contextlib.suppress(FileNotFoundError):  # removed while it was looked at
                step = int(part["begin"] or 0) + int(cut["step"])
                found.append((step, path.stat().st_mtime_ns, Checkpoint(path, step)))
    # Two parts may have reached the same step; the later one is the one to go on from.
    return [item for _, _, item in sorted(found, key=lambda each: each[:2])]


def groups_of(checkpoint: Checkpoint, family: Family) -> list[tuple[str, str]]:
    """What the name of a checkpoint says beside its step."""
    match = re.search(family.checkpoints.rpartition("/")[2] + "$", checkpoint.path.name)
    return [(name, value) for name, value in match.groupdict().items() if value is not None] if match else []


def listed(folder: Path) -> list[Path]:
    """What a folder holds; nothing where it is not there."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
