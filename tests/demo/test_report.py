"""The demo's report on made-up facts: what it says, that it loads nothing, and that a browser draws it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from demo import report
from tests.demo.sample_facts import DIFF, make

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Elements that HTML leaves without an end tag.
VOID = {"meta", "link", "br"}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return make()


@pytest.fixture(scope="module")
def html(facts: dict[str, Any]) -> str:
    return report.page(facts)


class Reader(HTMLParser):
    """Collects elements with their classes, text and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.spans: list[tuple[str, str]] = []
        self._span: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self._span = dict(attrs).get("class") if tag == "span" else None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._span:
            self.spans.append((self._span, data))
            self._span = None


def test_every_element_is_closed_and_nothing_is_loaded(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.loads
    assert all(load.startswith(("data:", "#")) for load in reader.loads)
    assert all(f'id="{load[1:]}"' in html for load in reader.loads if load.startswith("#"))
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in reader.tags


def test_the_diff_is_coloured_escaped_and_counted(html: str) -> None:
    assert '<i class="add">+    attach(model)  # &lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;</i>' in html
    assert '<i class="del">-    return wrap(model)</i>' in html
    assert html.count('<i class="add">') == 3
    assert report.changed_lines(DIFF) == 4
    assert "index 1111111" not in html


def test_changed_lines_counts_lines_that_look_like_headers() -> None:
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- a\n+++ b\n same\n"
    assert report.changed_lines(diff) == 2
    assert report.changed_lines("") == 0


def test_every_token_shows_its_type_and_whether_it_is_trained(facts: dict[str, Any], html: str) -> None:
    reader = Reader()
    reader.feed(html[html.index('<div class="tokens">') :].split("</div>")[0] + "</div>")
    sample = facts["sample"]
    assert [text.replace("\u21b5", "\n") for _, text in reader.spans] == sample["tokens"]
    for (kinds, _), kind, on, off in zip(
        reader.spans, sample["semantic_ids"], sample["labels"], sample["labels_off"], strict=True
    ):
        state = "trained" if on != -100 else "feedback" if off != -100 else "prompt"
        assert kinds == f"type{kind} {state}"
    states = {kinds.split()[1] for kinds, _ in reader.spans}
    assert states == {"trained", "feedback", "prompt"}


def test_every_run_every_upstream_and_every_version_is_named(facts: dict[str, Any], html: str) -> None:
    for name, run in facts["runs"].items():
        assert f"<b>{name}</b>" in html
        assert run["command"] in html
    assert "unreachable" in html
    assert "2.13.0+cpu" in html
    assert html.count('class="chart heat"') == len(facts["biases"]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_draws_it_without_complaint_or_sideways_scrolling(html: str, width: int, tmp_path: Path) -> None:
    # The probe writes the report's widths into its title, which the dumped tree shows. Headless Chromium has a smallest
    # window, hence the frame.
    probe = (
        f'<!DOCTYPE html><html><body style="margin:0"><iframe id="f" src="report.html" width="{width}" height="900" '
        'style="border:0"></iframe><script>document.getElementById("f").onload = function () {'
        'var d = document.getElementById("f").contentDocument.documentElement;'
        'document.title = ["widths", d.scrollWidth, d.clientWidth, d.scrollHeight].join(" "); }</script></body></html>'
    )
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
        *("--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000"),
    ]
    run = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/probe.html"],
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
