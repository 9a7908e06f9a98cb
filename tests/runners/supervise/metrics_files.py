"""Metrics files made up by the tests: framing written down once more, by the formats' own descriptions."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

BLOCK = 32768


class Told(list[str]):
    """What a reader said; `silent`: it must not say anything."""

    def __init__(self, silent: bool = False) -> None:
        super().__init__()
        self.silent = silent

    def __call__(self, text: str) -> None:
        assert not self.silent, text
        self.append(text)


def same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Equal mappings, where NaN equals NaN."""
    return one.keys() == other.keys() and all(
        one[name] == other[name] or (math.isnan(one[name]) and math.isnan(other[name])) for name in one
    )


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def wandb_record(values: Mapping[str, Any]) -> bytes:
    """A `Record` with a history of `values` as JSON."""
    items = [field(1, key.encode()) + field(16, json.dumps(value).encode()) for key, value in values.items()]
    return field(2, b"".join(field(1, item) for item in items))


def wandb_file(rows: Sequence[Mapping[str, Any]], records: Sequence[bytes] = ()) -> bytes:
    """A log of `rows` and of other `records` (bytes of messages)."""
    data = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    for record in [*map(wandb_record, rows), *records]:
        first = True
        while True:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data += bytes(room)
                room = BLOCK
            piece, record = record[: room - 7], record[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not record]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
            if not record:
                break
    return data


def crc32c(data: bytes) -> int:
    """Bit by bit: the remainder by 0x1EDC6F41, bits reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)


def event_record(step: int, tag: str, value: float, wall: float = 1e9) -> bytes:
    """A TFRecord of an `Event` with one simple_value."""
    summary = field(1, field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
    event = b"\x09" + struct.pack("<d", wall) + b"\x10" + varint(step) + field(5, summary)
    length = struct.pack("<Q", len(event))
    return length + masked(length) + event + masked(event)
