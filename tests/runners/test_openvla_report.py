"""The report on made-up facts: its figures against hand calculation, what it names, and that it loads nothing."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runners import charts
from runners.openvla_report import FRAGILE, NULL, PLASTIC, in_words, page, split_of
from runners.openvla_scores import forgetting_of
from tests.runners import sample_facts
from tests.runners.sample_facts import BEFORE, GOAL, OBJECT, SUCCESS

T = {2: 4.30265273}
"""Two-sided 95 % point of Student's t, from a printed table."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Rows of all tables as text, elements that stay open, and what could be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
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


@pytest.fixture(scope="module")
def html() -> str:
    return page(sample_facts.make())


def row(html: str, name: str) -> list[str]:
    return next(row for row in Reader(html).rows if row[0] == name and len(row) == 6)


def interval(values: list[float]) -> str:
    half = T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * statistics.fmean(values):.1f} % ± {100 * half:.1f} ({len(values)} seeds)"


@pytest.mark.parametrize("arm", ["baseline", "method"])
def test_success_and_forgetting_are_means_with_t_intervals(html: str, arm: str) -> None:
    lost = [
        ((BEFORE["libero_object"] - one) + (BEFORE["libero_goal"] - other)) / 2
        for one, other in zip(OBJECT[arm], GOAL[arm], strict=True)
    ]
    _, success, forgetting, again, objects, goal = row(html, arm)
    assert success == again == interval(SUCCESS[arm])
    assert forgetting == interval(lost)
    assert (objects, goal) == (interval(OBJECT[arm]), interval(GOAL[arm]))


def test_before_fine_tuning_is_a_row_of_its_own(html: str) -> None:
    assert row(html, "before fine-tuning")[3:] == ["not measured", "80.0 %", "70.0 %"]


def test_a_single_seed_says_that_it_has_no_interval(html: str) -> None:
    assert row(html, "no_hsw")[1] == "70.0 % (one seed: no interval)"
    alone = page(sample_facts.make([0]))
    assert "±" not in alone
    assert alone.count("one seed: no interval") == 3 * 5


def test_missing_and_failed_are_named_and_what_stood_in_comes_first(html: str) -> None:
    assert "no_hsw, seed 1, libero_spatial" in html
    assert "not asked for: no_icsm_rerank, no_thermostat, random_subspace (--arms)" in html
    assert "eval/no_hsw/seed1: failed: exit code 1" in html
    assert html.index("What stood in") < html.index("Did not end well") < html.index("Success and forgetting")
    facts = dataclasses.replace(sample_facts.make(), scores={})
    with pytest.raises(KeyError):
        page(facts)
    empty = sample_facts.make([])
    assert row(page(empty), "method")[1:3] == ["missing", "missing"]


def test_forgetting_needs_every_suite_before_and_after() -> None:
    before = {"a": sample_facts.score("a", 0.9), "b": sample_facts.score("b", 0.5)}
    after = {"a": sample_facts.score("a", 0.5), "b": sample_facts.score("b", 0.6)}
    assert forgetting_of(before, after, ["a", "b"]) == pytest.approx(0.15)
    assert forgetting_of(before, {"a": after["a"]}, ["a", "b"]) is None
    assert forgetting_of({"a": before["a"]}, after, ["a", "b"]) is None
    assert forgetting_of(before, after, []) is None


def test_without_general_suites_forgetting_is_not_zero_but_not_measured() -> None:
    facts = dataclasses.replace(sample_facts.make(), general=[])
    assert "no general suite" in page(facts)


def test_everything_is_closed_escaped_and_nothing_is_loaded(html: str) -> None:
    reader = Reader(html)
    assert reader.open == []
    assert all(load.startswith(("data:", "#")) for load in reader.loads)
    assert all(f'id="{load[1:]}"' in html for load in reader.loads if load.startswith("#"))
    assert not re.search(r"https?://|@import|url\(|<script", html)
    assert "&lt;b&gt;" in html
    assert "no &lt;memory&gt;" in html


def test_the_split_follows_the_order_of_the_artifact() -> None:
    layer = {"fragile": 1, "plastic": 2, "order": [2, 0, 3, 1], "vulnerabilities": [0.3, 0.1, 0.9, 0.2]}
    assert split_of(layer) == {FRAGILE: [(2, 0.9)], PLASTIC: [(0, 0.3), (3, 0.2)], NULL: [(1, 0.1)]}


def test_every_direction_is_drawn(html: str) -> None:
    part = html[html.index('id="icsm"') : html.index('id="made"')]
    assert part.count("<circle") == 32 + 24


def test_a_random_basis_has_no_picture_and_says_so() -> None:
    facts = sample_facts.make()
    layer = {**sample_facts.layer(), "vulnerabilities": None}
    assert "A random basis" in page(dataclasses.replace(facts, icsm={"random": {"layers": {"8": layer}}}))


def test_lines_are_drawn_where_their_values_belong() -> None:
    rising = [(0, 0.0), (50, 0.5), (100, 1.0)]
    svg = charts.lines([charts.Line("a", [rising, [(0, 0.5)]]), charts.Line("b", [[(0, float("nan"))]], 1)], "t", "u")
    found = re.search(r'class="line series0" d="M([^"]+)"', svg)
    assert found
    points = [tuple(map(float, point.split())) for point in found[1].split("L")]
    assert points == [(52, 216), (242, 121), (432, 26)]
    assert "series1" not in svg
    assert 'cx="52.0" cy="121.0"' in svg
    assert ">a 0.75<" in svg
    assert "nothing was recorded" in charts.lines([charts.Line("b", [[]])], "t", "u")


def test_intervals_are_drawn_where_their_values_belong() -> None:
    svg = charts.intervals([charts.Bar("x", 0.5, 0.25, [0.5]), charts.Bar("y", 1.0, None, [1.0])], "t", "u")
    assert "M245.0 41.0H455.0" in svg
    assert 'cx="350.0" cy="41.0" r="5"' in svg
    assert svg.count("H455.0") == 1


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 0.93], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([-0.07, 0.31], [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]),
        ([0.0], [0.0, 0.2]),
        ([3.0, 3.0], [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_axes_have_round_ticks_and_hold_their_values(values: list[float], ticks: list[float]) -> None:
    axis = charts.Axis.over(values)
    assert axis.ticks() == pytest.approx(ticks)
    assert axis.low <= min(values)
    assert axis.high >= max(values)


def test_in_words() -> None:
    assert in_words(None) == "missing"


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
    long_path = "/srv/" + "very-long-folder-name/" * 12
    (tmp_path / "report.html").write_text(html.replace("python x.py", f"python {long_path}"), encoding="utf-8")
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
