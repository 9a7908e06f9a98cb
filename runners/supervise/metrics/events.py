"""TensorBoard's events.out.tfevents.*: TFRecords of protobuf `Event`s (tensorflow's event.proto and summary.proto).

A TFRecord is the length (8 bytes), its checksum, the data, its checksum; checksums are masked CRC-32C. A scalar is a
`Summary.Value` with a tag and either simple_value (the older way, and transformers') or a tensor of one float.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from runners.supervise.metrics import wire
from runners.supervise.metrics.growing import Lost, Say
from runners.supervise.metrics.row import Row, row_of

WALL_TIME, STEP, SUMMARY = 1, 2, 5
VALUE, TAG, SIMPLE_VALUE, TENSOR = 1, 1, 2, 8
DTYPE, CONTENT, FLOAT_VAL, DOUBLE_VAL = 1, 4, 5, 6
DT_FLOAT, DT_DOUBLE = 1, 2
LARGEST = 1 << 20
"""Bytes: no scalar's event is as large. Pictures, which are, are passed over unread."""


def _crc_table() -> list[int]:
    """CRC-32C byte by byte (Castagnoli 1993): polynomial 0x1EDC6F41, reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data`, rotated by 15 bits and shifted, as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def rows(file: BinaryIO, say: Say) -> Iterator[tuple[int, Row | None]]:
    """See `growing.Rows`. A damaged event is passed over; a damaged length leaves no way to the next event."""
    while True:
        start = file.tell()
        head = file.read(12)
        if len(head) < 12:
            return
        length, check = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != check:
            raise Lost(f"the length of the record at byte {start} is damaged")
        end = start + 12 + length + 4
        if length > LARGEST:
            file.seek(end - 1)
            if not file.read(1):
                return
            yield end, None
            continue
        data, check = file.read(length), file.read(4)
        if len(check) < 4:
            return
        row = None
        if masked_crc(data) != int.from_bytes(check, "little"):
            say(f"the record at byte {start} is damaged")
        else:
            try:
                row = _event(data)
            except (wire.Damaged, UnicodeDecodeError) as error:
                say(f"the record at byte {start} is no event: {error}")
        yield end, row


def _event(data: bytes) -> Row | None:
    wall: float | None = None
    step = 0
    values: dict[str, float] = {}
    for number, value in wire.fields(data):
        if number == WALL_TIME:
            (wall,) = wire.floats(value, 8)
        elif number == STEP:
            step = wire.signed(value)
        elif number == SUMMARY:
            for _, each in filter(lambda field: field[0] == VALUE, wire.fields(wire.message(value))):
                tag, found = _value(wire.message(each))
                if found is not None:
                    values[tag] = found
    return row_of(values, wall, step) if values else None


def _value(data: bytes) -> tuple[str, float | None]:
    tag, found = "", None
    for number, value in wire.fields(data):
        if number == TAG:
            tag = wire.message(value).decode()
        elif number == SIMPLE_VALUE:
            (found,) = wire.floats(value, 4)
        elif number == TENSOR:
            found = _scalar(wire.message(value))
    return tag, found


def _scalar(data: bytes) -> float | None:
    """The number of a tensor of one float or double; None for others: histograms, pictures, text."""
    kept = dict(wire.fields(data))
    kind = kept.get(DTYPE)
    if kind not in (DT_FLOAT, DT_DOUBLE):
        return None
    width, own = (4, FLOAT_VAL) if kind == DT_FLOAT else (8, DOUBLE_VAL)
    found = wire.floats(kept.get(CONTENT) or kept.get(own, b""), width)
    return found[0] if len(found) == 1 else None
