"""JSON lines: LLaMA-Factory's trainer_log.jsonl, prismatic's RUN.jsonl, and the metrics.jsonl of our overlays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from runners.supervise.metrics.growing import Say
from runners.supervise.metrics.row import Row, row_of


def rows(file: BinaryIO, say: Say) -> Iterator[tuple[int, Row | None]]:
    """See `growing.Rows`. A line without its end waits; a first one without a step is a heading, as prismatic's is."""
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            return
        end = file.tell()
        if not line.strip():
            continue
        found = _object(line)
        if found is None:
            found = _last_object(line)
            say(f"the line at byte {start} is damaged" + (", its end was read" if found is not None else ""))
        row = None if found is None else row_of(found)
        if found is not None and row is None and start > 0:
            say("there are lines without a step, or with one that runners/supervise/metrics/names.toml does not know")
        yield end, row


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:  # JSON's error, and UTF-8's
        return None
    return found if isinstance(found, dict) else None


def _last_object(line: bytes) -> dict[str, Any] | None:
    """What a resumed run appended to the line that a kill had cut short: the object that the line ends with."""
    at = line.find(b"{", 1)
    while at > 0:
        if (found := _object(line[at:])) is not None:
            return found
        at = line.find(b"{", at + 1)
    return None
