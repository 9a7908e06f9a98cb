"""Protobuf's wire format, as much of it as a reader of known fields needs (protobuf.dev, "Encoding").

A message is a series of fields, each with its number and its wire type; what is not asked for is passed over. No
schema: the caller knows that field 2 of `Event` is a signed step, and decodes it with the function named for that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Damaged(ValueError):
    """These bytes are no message."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, seven bits a byte, lowest first, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise Damaged("a number is cut off")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise Damaged("a number is longer than ten bytes")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in the order of the bytes: an int of a varint, else the field's bytes. Raises Damaged."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise Damaged(f"field {number} has wire type {kind}")
        if at + size > len(data):
            raise Damaged(f"field {number} is cut off")
        yield number, data[at : at + size]
        at += size


def signed(value: int | bytes) -> int:
    """An int64, which the wire has in two's complement."""
    if not isinstance(value, int):
        raise Damaged("bytes where a number should be")
    return value - (1 << 64) if value >> 63 else value


def floats(value: int | bytes, width: int) -> tuple[float, ...]:
    """The little-endian floats of `width` bytes, 4 or 8, that `value` is a row of."""
    if not isinstance(value, bytes) or len(value) % width:
        raise Damaged(f"no row of floats of {width} bytes")
    return struct.unpack(f"<{len(value) // width}{'f' if width == 4 else 'd'}", value)


def message(value: int | bytes) -> bytes:
    """The bytes of a message, a string or a packed row."""
    if not isinstance(value, bytes):
        raise Damaged("a number where a message should be")
    return value
