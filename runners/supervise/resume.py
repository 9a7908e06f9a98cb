"""How each upstream goes on from a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runners.supervise import outputs
from runners.supervise.arguments import relative
from runners.supervise.checkpoint_names import Checkpoint, groups_of, in_output
from runners.supervise.launchers import UnknownCommand

if TYPE_CHECKING:
    from runners.supervise.command import Command

LINKS = "continued"
"""Folder beside openvla's runs with links to the models that runs go on from."""


def offset_of(command: Command) -> int:
    """The step that a run of openvla's fine-tuning, which counts from 0 again, goes on from."""
    if command.family.output != "openvla_finetune":
        return 0
    found = outputs.FROM.search(command.setting("run_id_note") or "")
    return int(found[1]) if found else 0


def resumed(command: Command, checkpoint: Checkpoint) -> Command:
    """`command` with the settings of its family's `resume`.

    openvla's fine-tuning goes on through a link that is made below its run_root_dir.

    Raises UnknownCommand where the family has no resume, and where upstream would take another checkpoint.
    """
    family = command.family
    if not family.resume:
        raise UnknownCommand(f"{family.name} has no resume: start it anew, or from what it saved, by hand")
    if family.takes_latest:
        latest = in_output(command)
        if not latest or latest[-1].path != checkpoint.path:
            there = latest[-1].path.name if latest else "none"
            raise UnknownCommand(
                f"{family.name} resumes the latest checkpoint of {command.output}, which is {there}, not "
                f"{checkpoint.path}: move later ones aside, and start from another run's with its own option"
            )
    # An int is written without the zeros before it, which YAML takes for octal.
    known = {name: str(int(value)) if value.isdigit() else value for name, value in groups_of(checkpoint, family)}
    known |= {"checkpoint": str(checkpoint.path), "step": str(checkpoint.step)}
    if family.output == "openvla_finetune":
        known |= _on(command, checkpoint)
    try:
        return command.with_settings({key: value.format_map(known) for key, value in family.resume.items()})
    except KeyError as error:
        raise UnknownCommand(f"{family.name}: {checkpoint.path.name} has no {error.args[0]}") from None


def _on(command: Command, checkpoint: Checkpoint) -> dict[str, str]:
    """What upstream has no option for: a link with the first model's name, the steps left, and a note."""
    total = int(float(command.get("steps") or 0)) + command.offset
    if checkpoint.step >= total:
        raise UnknownCommand(f"{checkpoint.path} is at step {checkpoint.step} of {total}: nothing is left to train")
    root = relative(command.get("output") or "", command.folder)
    model = str(command.setting("vla_path")).split("/")[-1]
    link = root / LINKS / checkpoint.path.name / model
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or Path(os.readlink(link)) != checkpoint.path:
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.path, target_is_directory=True)
    note = outputs.own_note(command)
    return {
        "link": str(link),
        "remaining": str(total - checkpoint.step),
        "note": f"{note}{'-' if note else ''}from{checkpoint.step}",
    }
