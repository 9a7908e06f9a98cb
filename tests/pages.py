"""Reads a report as its readers do: as elements and text, and drawn by a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
# Elements that HTML leaves without an end tag.
VOID = {"meta", "link", "br"}
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000"),
)


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


def check_drawn(html: str, width: int, folder: Path) -> None:
    """Chromium draws it in a window of `width` pixels without complaint, and nothing sticks out sideways."""
    # The probe writes the report's widths into its title, which the dumped tree shows. Headless Chromium has a smallest
    # window, hence the frame.
    probe = (
        f'<!DOCTYPE html><html><body style="margin:0"><iframe id="f" src="report.html" width="{width}" height="900" '
        'style="border:0"></iframe><script>document.getElementById("f").onload = function () {'
        'var d = document.getElementById("f").contentDocument.documentElement;'
        'document.title = ["widths", d.scrollWidth, d.clientWidth, d.scrollHeight].join(" "); }</script></body></html>'
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "probe.html").write_text(probe, encoding="utf-8")
    run = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{folder}/probe.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in run.stderr
    found = re.search(r"widths (\d+) (\d+) (\d+)", run.stdout)
    assert found, run.stderr[-2000:]
    scroll, client, height = map(int, found.groups())
    assert scroll == client == width
    assert height > 1500
