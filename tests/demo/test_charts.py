"""The pictures of the demo's report, checked against readings of their own."""

from __future__ import annotations

import re
import struct
import zlib

import pytest

from demo import charts
from look.words import ENGLISH


def decode(image: bytes) -> list[list[tuple[int, ...]]]:
    """An RGBA PNG read back by the format's definition, for filter type 0 only."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        kind, body = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        assert struct.unpack(">I", image[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + 4 * width
    assert len(raw) == height * stride
    rows = [raw[i * stride : (i + 1) * stride] for i in range(height)]
    assert {row[0] for row in rows} == {0}
    return [[tuple(row[1 + 4 * j : 5 + 4 * j]) for j in range(width)] for row in rows]


def test_png_holds_the_pixels_it_was_given() -> None:
    pixels = [[(255, 0, 7, 255), (0, 0, 0, 0), (1, 2, 3, 4)], [(9, 8, 7, 6), (5, 5, 5, 255), (0, 255, 0, 128)]]
    assert decode(charts.png(pixels)) == pixels


def test_bias_pixels_tell_future_hidden_and_seen_apart() -> None:
    pixels = charts.bias_pixels([[0.0, None], [None, -0.5]])
    assert pixels[0][1] == (0, 0, 0, 0)
    assert pixels[1][0] == (*charts.HIDDEN, 255)
    assert pixels[0][0] == (*charts.ZERO, 255)
    assert pixels[1][1] not in (pixels[1][0], pixels[0][0])


def test_a_stronger_bias_is_darker_and_the_scale_ends_saturate() -> None:
    light = [sum(charts.colour_of(-size)) for size in (0.001, 0.01, 0.1, 1.0, 10.0, 30.0)]
    assert light == sorted(light, reverse=True)
    assert len(set(light)) == len(light)
    assert charts.colour_of(-1e-9) == charts.FAINT
    assert charts.colour_of(-1e9) == charts.STRONG


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0], [(0, 1, 0)]),
        ([0, 0, 2, 2, 2, 1], [(0, 2, 0), (2, 5, 2), (5, 6, 1)]),
        ([1, 0, 1], [(0, 1, 1), (1, 2, 0), (2, 3, 1)]),
    ],
)
def test_runs_of(values: list[int], expected: list[tuple[int, int, int]]) -> None:
    assert charts.runs_of(values) == expected


def test_heat_map_bands_cover_both_axes_once() -> None:
    types = [0, 0, 2, 1]
    svg = charts.heat_map([[0.0] * 4 for _ in range(4)], types, "t", ENGLISH)
    bands = re.findall(r'<rect class="type(\d)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    across = [(kind, float(width)) for kind, _, _, width, height in bands if height == "12.0"]
    down = [(kind, float(height)) for kind, _, _, width, height in bands if width == "12.0"]
    assert across == down == [("0", 200.0), ("2", 100.0), ("1", 100.0)]
