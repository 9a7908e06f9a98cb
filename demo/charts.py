"""Pictures without a plotting library: a bias matrix as PNG, with its axes and its colour scale as SVG."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

from look.axes import picture
from look.words import Words

# Biases span four decades (a landmark's slope is 0.001 a token, noise's 0.5), so the colour runs over log10 |bias|.
DECADES = (-3.0, 1.5)
FAINT, STRONG = (255, 238, 186), (122, 15, 68)
MIDDLE = (236, 122, 60)
ZERO = (196, 218, 240)
HIDDEN = (54, 52, 66)


def png(pixels: Sequence[Sequence[tuple[int, int, int, int]]]) -> bytes:
    """An 8-bit RGBA PNG of `pixels` (rows of (r, g, b, a))."""
    height, width = len(pixels), len(pixels[0])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    raw = b"".join(b"\0" + bytes(channel for pixel in row for channel in pixel) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def colour_of(bias: float) -> tuple[int, int, int]:
    """The colour of a finite bias: pale blue at 0, then yellow to purple with the logarithm of its size."""
    if bias == 0:
        return ZERO
    low, high = DECADES
    share = min(1.0, max(0.0, (math.log10(abs(bias)) - low) / (high - low)))
    first, second, part = (FAINT, MIDDLE, share * 2) if share < 0.5 else (MIDDLE, STRONG, share * 2 - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def bias_pixels(matrix: Sequence[Sequence[float | None]]) -> list[list[tuple[int, int, int, int]]]:
    """`matrix[i][j]`: bias of key j for query i, None where query i may not see it; the future is transparent."""
    return [
        [
            (0, 0, 0, 0) if j > i else (*HIDDEN, 255) if bias is None else (*colour_of(bias), 255)
            for j, bias in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def runs_of(values: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, end, value) of every stretch of equal neighbours in `values`."""
    edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(a, b, values[a]) for a, b in pairwise(edges) if b > a]


def heat_map(matrix: Sequence[Sequence[float | None]], semantic_ids: Sequence[int], title: str, words: Words) -> str:
    """An SVG of the matrix, keys to the right and queries down, with the semantic types as bands along both axes."""
    size = len(matrix)
    band, gap, left, top = 12, 4, 66, 56
    cell = 400 / size
    side = cell * size
    parts = []
    for start, end, kind in runs_of(semantic_ids):
        at, length = start * cell, (end - start) * cell
        across = (left + at, top - gap - band, length, band)
        down = (left - gap - band, top + at, band, length)
        for x, y, width, height in (across, down):
            parts.append(
                f'<rect class="type{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
            )
    step = 20 if size <= 160 else 50
    for at in range(0, size, step):
        place = (at + 0.5) * cell
        parts.append(
            f'<text x="{left + place:.1f}" y="{top - gap - band - 5}" text-anchor="middle">{at}</text>'
            f'<text x="{left - gap - band - 5}" y="{top + place + 4:.1f}" text-anchor="end">{at}</text>'
        )
    image = data_url(png(bias_pixels(matrix)))
    whole = [
        f'<text x="{left + side / 2:.0f}" y="14" text-anchor="middle">{words("key (token j)")}</text>',
        f'<text transform="translate(14 {top + side / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{words('query (token i)')}</text>",
        f'<image x="{left}" y="{top}" width="{side:.1f}" height="{side:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{image}"/>',
        f'<rect class="frame" x="{left}" y="{top}" width="{side:.1f}" height="{side:.1f}"/>',
        *parts,
        f'<text class="quiet" x="{left + side * 0.72:.0f}" y="{top + side * 0.25:.0f}" text-anchor="middle">'
        f"{words('the future')}</text>",
    ]
    return picture(left + side + 6, top + side + 24, title, whole, "chart heat")


def colour_scale(words: Words) -> str:
    """The legend of `heat_map`: colour against bias, labelled at whole decades."""
    low, high = DECADES
    width, left = 300, 24
    steps = 60
    bars, ticks = [], []
    for index in range(steps):
        bias = -(10 ** (low + (high - low) * (index + 0.5) / steps))
        x = left + width * index / steps
        bars.append(
            f'<rect x="{x:.1f}" y="6" width="{width / steps + 0.6:.1f}" height="14" fill="rgb{colour_of(bias)}"/>'
        )
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = left + width * (power - low) / (high - low)
        ticks.append(f'<text x="{x:.1f}" y="36" text-anchor="middle">{-(10.0**power):g}</text>')
        ticks.append(f'<path class="axis" d="M{x:.1f} 20v4"/>')
    swatches = [
        f'<rect x="{x}" y="50" width="14" height="14" fill="rgb{colour}"/><text x="{x + 20}" y="62">{text}</text>'
        for x, colour, text in (
            (left, ZERO, words("0: no bias")),
            (left + 120, HIDDEN, words("hidden from this query")),
        )
    ]
    return picture(360, 72, words("colour scale of the attention bias"), bars + ticks + swatches, "chart scale")
