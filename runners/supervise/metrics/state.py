"""trainer_state.json, which transformers writes into every checkpoint: where LLaMA-Factory's gradient norms are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from runners.supervise.metrics.growing import Say
from runners.supervise.metrics.row import Row, row_of

IN_THE_LOG = ("loss", "learning_rate", "epoch", "eval_loss")


def rows(file: BinaryIO, say: Say) -> Iterator[tuple[int, Row | None]]:
    """See `growing.Rows`. The file is read whole; until it is, it waits.

    What trainer_log.jsonl has is left out: a state repeats all rows since the beginning, at every checkpoint, and is
    behind the log between two of them.
    """
    data = file.read()
    if not data:
        return
    try:
        history = json.loads(data)["log_history"]
    except ValueError:
        return
    for entry in history:
        row = row_of(entry)
        values = {} if row is None else {name: row.values[name] for name in row.values if name not in IN_THE_LOG}
        if row is not None and values:
            yield 0, Row(row.step, values)
    yield file.tell(), None
