"""Reads a report as its readers do: as elements and text, and drawn by a browser."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from look.words import catalogue, one_line
from tests.browser import CHROMIUM, MUST_DRAW, NO_CHROMIUM, Browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None and not MUST_DRAW, reason=NO_CHROMIUM)
# Elements that HTML leaves without an end tag.
VOID = {"meta", "link", "br"}
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
PICTURES = "GRAFT_PICTURES"
"""Environment variable: a folder for whole pictures of every page, to be looked at (artifacts/pictures, say)."""
LEAST_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3, level AA."""


class Reader(HTMLParser):
    """Tags, elements that stay open, every attribute that could load something, rows of all tables as text, and spans.

    A span is its classes and the text right after it begins. Raises AssertionError where an end tag does not fit.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.spans: list[tuple[str, str]] = []
        self._span: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._span = dict(attrs).get("class") if tag == "span" else None
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if self._span:
            self.spans.append((self._span, data))
            self._span = None


def check_whole(html: str, linked: tuple[str, ...] = ()) -> None:
    """Every element is closed, nothing is loaded or run, links lead to a place on the page or are `linked`."""
    reader = Reader(html)
    assert reader.open == []
    assert reader.loads
    elsewhere = [load for load in reader.loads if not load.startswith(("data:", "#"))]
    assert elsewhere == list(linked)
    assert all(f'id="{load[1:]}"' in html for load in reader.loads if load.startswith("#"))
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in reader.tags


def check_drawn(browser: Browser, pages: Mapping[str, str], folder: Path, name: str) -> None:
    """Each of `pages` (HTML by language) as a reader sees it, on a desk and on a phone, in light and dark.

    Chromium draws it without complaint and without a request; a picture of it is not blank, and has the background that
    the style gives to this scheme; nothing sticks out sideways, of the page or of a chart; every text has enough
    contrast; a Chinese page has no label that was left in English. All that is folded is unfolded for that.
    """
    backgrounds = set()
    for lang, html in pages.items():
        path = folder / f"{name}-{lang}.html"
        path.write_text(html, encoding="utf-8")
        browser.open(path)
        for scheme in SCHEMES:
            for width in WIDTHS:
                case = f"{name} in {lang}, {scheme}, {width} pixels"
                browser.set(width, scheme)
                _keep(browser, f"{name}-{lang}-{scheme}-{width}", width)
                seen = browser.evaluate(f"({PROBE})()")
                assert seen["inner"] == width, case
                assert seen["scroll"] == width, f"{case}: sticks out: {seen['wide']}"
                assert seen["lang"] == {"en": "en", "zh": "zh-CN"}[lang], case
                assert not seen["cut"], f"{case}: chart's texts are cut: {seen['cut'][:8]}"
                faint = [text for text in seen["texts"] if text["contrast"] < LEAST_CONTRAST]
                assert not faint, f"{case}: too little contrast: {faint[:8]}"
                assert len(seen["texts"]) > 20, case
                pixels = rows_of(browser.picture(width, min(1600, seen["height"]), 0.125))
                flat = [pixel for row in pixels for pixel in row]
                page = tuple(seen["page"])
                # Scaling mixes neighbours, not the margin.
                assert flat[0] == page == max(set(flat), key=flat.count), case
                assert len(set(flat)) > 50, f"{case}: blank"
                backgrounds.add((scheme, page))
                if lang == "zh":
                    check_chinese([text["text"] for text in seen["texts"] if not text["data"]], case)
        assert browser.complaints == []
    light, dark = (next(page for scheme, page in backgrounds if scheme == which) for which in SCHEMES)
    assert len(backgrounds) == 2
    assert sum(dark) < 150 < 600 < sum(light)


def check_chinese(texts: list[str], case: str) -> None:
    """None of the `texts` is a label that has a translation other than itself, and most have Chinese in them."""
    known = catalogue("zh")
    left = [text for text in texts if known.get(one_line(text), text) != text and text not in NAMES]
    assert not left, f"{case}: in English: {left[:8]}"


NAMES = {"sort", "reverse", "echo", "calm", "moved", "baseline", "method", "low", "high", "rotated", "inverted"}
"""Names of tasks, worlds and arms, which may be words of a catalogue too."""


def _keep(browser: Browser, name: str, width: int) -> None:
    """A picture of the whole page as it opens, where one is asked for."""
    if folder := os.environ.get(PICTURES):
        Path(folder).mkdir(parents=True, exist_ok=True)
        height = browser.evaluate("document.documentElement.scrollHeight")
        (Path(folder) / f"{name}.png").write_bytes(browser.picture(width, height))


PROBE = (Path(__file__).parent / "pages.js").read_text(encoding="utf-8")


def rows_of(image: bytes) -> list[list[tuple[int, ...]]]:
    """The (r, g, b) of an 8-bit RGB or RGBA PNG without interlacing, by the format's definition."""
    at, chunks = 8, b""
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        kind, body = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, interlaced) == (8, 0)
            assert colour in (2, 6)
        chunks += body if kind == b"IDAT" else b""
        at += 12 + length
    size = 3 if colour == 2 else 4
    raw, stride = zlib.decompress(chunks), size * width
    above, rows = bytearray(stride), []
    for number in range(height):
        line = bytearray(raw[number * (stride + 1) + 1 : (number + 1) * (stride + 1)])
        how = raw[number * (stride + 1)]
        for place in range(stride):
            left = line[place - size] if place >= size else 0
            corner = above[place - size] if place >= size else 0
            up = above[place]
            line[place] = (line[place] + (0, left, up, (left + up) // 2, _paeth(left, up, corner))[how]) % 256
        rows.append([tuple(line[size * x : size * x + 3]) for x in range(width)])
        above = line
    return rows


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
