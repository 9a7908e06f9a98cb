"""What a resume would take from a checkpoint in place of the command line: its learning rate and its batch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from runners.supervise import whole
from runners.supervise.arguments import true
from runners.supervise.checkpoint_names import Checkpoint
from runners.supervise.checkpoints import Unfit, run_script
from runners.supervise.command import Command

__all__ = ["carried"]

SHARDED = ("global_step*", "optimizer_*")


def carried(checkpoint: Checkpoint, command: Command, factor: float, into: Path) -> Checkpoint:
    """`checkpoint`, or a copy in `into` that carries `factor` times its learning rate and the batch in force.

    transformers' resume takes the rate from optimizer.pt and scheduler.pt, and before version 5 the batch of a device
    from trainer_state.json (4.55.4, trainer.py, line 2213), whatever the command line says: a smaller batch would come
    back beside the accumulation that makes up for it. Where upstream reads neither, or both are right, the checkpoint
    is returned as it is. Files that do not change are hard links; what was in `into` before is removed.

    Raises Unfit where the rate must change and the optimizer is sharded over ranks, or holds none that is known.
    """
    rates = _with_rates(checkpoint, command) if factor != 1.0 else []
    states = _with_another_batch(checkpoint, command)
    if not (rates or states):
        return checkpoint
    made, partial = into / checkpoint.path.name, into / f".{checkpoint.path.name}.partial"
    # An earlier copy's links would keep the bytes of checkpoints that are removed to free space.
    if into.exists():
        shutil.rmtree(into)
    partial.mkdir(parents=True)
    for path in whole.files_of(checkpoint.path):
        name = str(path.relative_to(checkpoint.path))
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in states:
            target.write_text(json.dumps(states[name], indent=2, sort_keys=True) + "\n", encoding="utf-8")
        elif name not in rates:
            _link(path, target)
    if rates:
        pairs = [str(folder / name) for name in rates for folder in (checkpoint.path, partial)]
        said = run_script(command, "rescale.py", [repr(factor), *pairs])
        if said.returncode:
            raise Unfit(f"the rate of {checkpoint.path} could not be changed: {said.stderr.strip()[-500:]}")
    partial.rename(made)
    return Checkpoint(made, checkpoint.step)


def _with_rates(checkpoint: Checkpoint, command: Command) -> list[str]:
    """The files of the checkpoint that hold the rate."""
    family = command.family
    if family.rescale and checkpoint.path.is_dir():
        sharded = [item.name for pattern in SHARDED for item in checkpoint.path.glob(pattern) if item.is_dir()]
        if sharded:
            raise Unfit(
                f"{checkpoint.path / sharded[0]} holds an optimizer that DeepSpeed or FSDP sharded: its rate cannot be "
                "changed here. Resume with the old rate, or start a new run from these weights with the new one"
            )
    return [name for name in family.rescale if (checkpoint.path / name).is_file()]


def _with_another_batch(checkpoint: Checkpoint, command: Command) -> dict[str, Any]:
    """The file that holds the batch, by name, with the one in force in it; empty where it holds that already."""
    told, family = command.get("batch"), command.family
    name, _, key = family.batch_in.partition(":")
    path = checkpoint.path / name
    # A batch that upstream itself has found is its own to keep.
    if not name or told is None or true(command.setting(family.batch_found)) or not path.is_file():
        return {}
    state = json.loads(path.read_text(encoding="utf-8"))
    batch = int(float(told))
    return {} if state.get(key) in (None, batch) else {name: {**state, key: batch}}


def _link(path: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        os.link(path, target)
        return
    shutil.copy2(path, target)  # another file system, or one without hard links
