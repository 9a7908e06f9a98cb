"""Reads back what one run of finetune.py gave to `wandb.log`, and prints its losses as one JSON list, last line.

    python demo/openvla_losses.py FOLDER      (in the environment that the run was made in)

FOLDER is where the run worked; its `wandb/` holds wandb's own binary file of an offline run, or the JSON lines of the
stand-in for wandb.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOSS = "train_loss"


def of_standin(path: Path) -> Iterator[dict[str, Any]]:
    """What was logged, from the JSON lines of the stand-in."""
    yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def of_wandb(path: Path) -> Iterator[dict[str, Any]]:
    """What was logged, from wandb's own file: it has no public reader for a run that was never uploaded."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield {**row, "step": row["_step"]}


def losses(folder: Path) -> list[list[float]]:
    """The [step, loss] pairs of the one run in `folder`.

    Raises FileNotFoundError where it logged nothing.
    """
    lines = folder / "wandb" / "wandb.jsonl"
    if lines.exists():
        rows = of_standin(lines)
    else:
        found = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        if len(found) != 1:
            raise FileNotFoundError(f"{folder}/wandb holds {len(found)} offline runs, not one")
        rows = of_wandb(found[0])
    pairs = [[row["step"], row[LOSS]] for row in rows if LOSS in row]
    if not pairs:
        raise FileNotFoundError(f"{folder}/wandb has no {LOSS}")
    return pairs


if __name__ == "__main__":
    print(json.dumps(losses(Path(sys.argv[1]))))
