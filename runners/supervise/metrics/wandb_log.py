"""wandb's run-*.wandb: the log that its offline mode keeps, and its online mode too.

leveldb's log format (github.com/google/leveldb, doc/log_format.md) behind a header of 7 bytes: blocks of 32 KiB, in
them records of checksum (CRC-32 of type and data: zlib's, not leveldb's), length, type and data; a record that does not
fit is cut into first, middle and last. Each whole record is a protobuf `Record`; field 2 is a row of `wandb.log`.

What is not yet on the disk cannot be read: wandb 0.28 writes 16 KiB at a time and the rest at the run's end, wandb 0.31
all of it every 15 seconds (`x_transaction_log_flush_interval`). A row of five metrics takes 400 bytes there.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from runners.supervise.metrics import wire
from runners.supervise.metrics.growing import Lost, Say
from runners.supervise.metrics.row import Row, row_of

BLOCK = 32 * 1024
FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
CRC = {kind: zlib.crc32(bytes([kind])) for kind in (FULL, FIRST, MIDDLE, LAST)}
HISTORY, ITEM, STEP, STEP_NUMBER = 2, 1, 2, 1
KEY, NESTED_KEY, VALUE_JSON = 1, 2, 16


def rows(file: BinaryIO, say: Say) -> Iterator[tuple[int, Row | None]]:
    """See `growing.Rows`. Behind a damaged piece the next is looked for where it should end, or in the next block."""
    if file.tell() == 0:
        header = file.read(len(FILE_HEADER))
        if header != FILE_HEADER[: len(header)]:
            raise Lost(f"begins with {header!r}: no wandb file of version 0")
        if len(header) < len(FILE_HEADER):
            return
    parts: bytes | None = None
    sound = True
    while True:
        room = BLOCK - file.tell() % BLOCK
        if room < HEADER.size:
            file.seek(room, 1)
            room = BLOCK
        start = file.tell()
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            return
        checksum, length, kind = HEADER.unpack(head)
        fits = kind in CRC and length <= room - HEADER.size
        data = file.read(length) if fits else b""
        if fits and len(data) < length:
            return
        if not fits or zlib.crc32(data, CRC[kind]) != checksum:
            if sound:
                say(f"the record at byte {start} is damaged")
            if not fits:
                file.seek(start + room)
            parts, sound = None, False
            yield file.tell(), None
            continue
        sound = True
        if kind in (FULL, FIRST) and parts is not None:
            say(f"the record before byte {start} has no end")
        if kind in (FULL, FIRST):
            parts = data
        elif parts is not None:
            parts += data
        # Else it is the rest of a record whose beginning was damaged.
        if kind in (FULL, LAST) and parts is not None:
            yield file.tell(), _row(parts, start, say)
            parts = None


def _row(record: bytes, start: int, say: Say) -> Row | None:
    try:
        history = [wire.message(value) for number, value in wire.fields(record) if number == HISTORY]
        return _history(history[0]) if history else None
    except (wire.Damaged, ValueError) as error:
        say(f"the record at byte {start} is no message of wandb's: {error}")
        return None


def _history(message: bytes) -> Row | None:
    values: dict[str, Any] = {}
    step: int | None = None
    for number, value in wire.fields(message):
        if number == ITEM:
            key, found = _item(wire.message(value))
            values[key] = found
        elif number == STEP:
            step = sum(wire.signed(each) for field, each in wire.fields(wire.message(value)) if field == STEP_NUMBER)
    wall = values.pop("_timestamp", None)
    values.pop("_runtime", None)
    return row_of(values, wall if isinstance(wall, float) else None, step)


def _item(message: bytes) -> tuple[str, Any]:
    """Key and value of one item. 0.31 can write a typed value too, but never without the JSON."""
    keys: list[str] = []
    found: Any = None
    for number, value in wire.fields(message):
        if number in (KEY, NESTED_KEY):
            keys.append(wire.message(value).decode())
        elif number == VALUE_JSON:
            found = json.loads(wire.message(value))
    return "/".join(keys), found
