"""The chapter on information dynamics on made-up facts: that its numbers and pictures are those facts."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from demo import infodyn_chapter, infodyn_timeline, report
from tests.demo import infodyn_facts, sample_facts
from tests.pages import Reader, check_whole


@pytest.fixture(scope="module")
def html() -> str:
    return infodyn_chapter.chapter(infodyn_facts.make())


def part_of(html: str, name: str) -> str:
    """The section with an id, up to the next one."""
    return html[html.index(f'id="infodyn-{name}"') :].split("<h2", 1)[0]


def rows_of(html: str, name: str) -> list[list[str]]:
    return Reader(f"<h2 {part_of(html, name)}").rows


def test_every_element_is_closed_and_nothing_is_loaded(html: str) -> None:
    pages = tuple(found["page"] for found in infodyn_facts.make()["oid"].values())
    page = report.page(sample_facts.make(), html)
    check_whole(page, linked=pages)
    assert '<a href="#infodyn">LLaMA-Factory: information dynamics</a>' in page[: page.index('<h2 id="graft"')]


@pytest.mark.parametrize(("proven", "says"), [(True, "its tree proven to"), (False, "its tree <b>not</b> proven to")])
def test_the_real_tree_is_named_with_its_commit_before_anything_else(proven: bool, says: str) -> None:
    head = infodyn_chapter.chapter({**infodyn_facts.make(), "proven": proven})
    head = head[: head.index("<p>")]
    assert "on the real LLaMA-Factory</b>, commit <code>c7c7c7c7</code>" in head
    assert says in head


def test_the_cards_are_counted_from_the_facts(html: str) -> None:
    cards = re.findall(r'<div class="card"><b>([^<]*)</b><span>([^<]*)</span>', html)
    # (0.875 + 0.125 + 0.625) / 3; three tasks of two files, of three pairs two were computed.
    assert [value for value, _ in cards] == ["4", "54%", "6", "62 s"]
    assert cards[0][1] == "choices, for 4 kinds of reasons"
    assert cards[2][1] == "probe files, 6 pairs analysed"


def test_the_timeline_has_every_choice_in_its_tasks_row_and_colour(html: str) -> None:
    part = part_of(html, "schedule")
    cells = re.findall(r'<rect class="dot (series\d)" x="([\d.]+)" y="(\d+)".*?<title>(.*?)</title>', part)
    assert [colour for colour, *_ in cells] == ["series3", "series3", "series1", "series1"]
    across = [float(x) for _, x, _, _ in cells]
    assert across == sorted(set(across))
    down = [int(y) for _, _, y, _ in cells]
    assert down[0] == down[1] > down[2] == down[3]
    assert cells[1][3] == "step 20, sort: score, first by progress: echo 0.1, &lt;sort&gt; 0.5"
    assert re.findall(r'class="inside"[^>]*>(\w)<', part) == ["c", "s", "f", "r"]
    assert part.count("<li>") == 4


def test_every_choice_has_its_reason_and_what_was_known_then(html: str) -> None:
    rows = rows_of(html, "schedule")
    assert rows[1] == ["0", "sort", "cold", "never trained; 2 more such tasks", ""]
    assert rows[4][:3] == ["60", "echo", "review"]
    assert rows[4][4] == "echo 0.75 / 0.38reverse 0.12 / 0.06sort 1.00 / 0.50"


def test_the_fate_of_each_task_says_what_it_lost(html: str) -> None:
    rows = {row[0]: row[1:] for row in rows_of(html, "course")}
    assert rows["sort"] == ["2 of 4", "50.0%", "100.0%", "62.5%", "37.5%", "0.312", "first at step 60"]
    assert rows["reverse"] == ["0 of 4", "12.5%", "12.5%", "12.5%", "0.0%", "0.062", "never"]
    assert part_of(html, "course").count('class="line ') == 6


def test_activity_is_in_percent_with_tasks_and_experts_in_order(html: str) -> None:
    first, last = part_of(html, "experts").split("<h3>")[1:]
    assert re.findall(r">([^<>]+)</text>", first) == [
        *("0", "1", "10"),
        *(word for task in infodyn_facts.TASKS for word in (task, "25", "25", "50")),
    ]
    assert re.findall(r">([^<>]+)</text>", last)[3:7] == ["echo", "75", "0", "25"]
    assert "after 2 chunks" in first
    assert "after 4 chunks" in last


def test_the_runners_pictures_are_shown_the_last_ones_open(html: str) -> None:
    part = part_of(html, "oid")
    shown = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", part)]
    drawn = [infodyn_facts.svg(words) for words in ("Syn 4", "Red 4", "Syn 2", "Red 2")]
    assert shown == drawn * 3
    folded = part[part.index("<details>") : part.index("</details>")]
    assert "Earlier: after 2 chunks" in folded
    assert folded.count("<img") == 2


def test_every_pair_has_its_numbers_or_why_there_are_none(html: str) -> None:
    rows = rows_of(html, "oid")
    assert rows[1] == ["2", "0", "1", "256", "too few common samples: <9>", "", ""]
    numbers = ["+0.250 [+0.125, +0.375] nats", "-0.500 [-0.750, -0.250] nats"]
    assert rows[2] == ["4", "0", "1", "256", *numbers, ""]
    assert rows[3][-1] == "singular: not to be trusted"


def test_without_the_analysis_environment_it_says_so_and_how_to_build_it() -> None:
    part = part_of(infodyn_chapter.chapter(infodyn_facts.make(analysed=False)), "oid")
    assert "Probed, not analysed" in part
    assert "<code>make infodyn</code>" in part
    assert "<img" not in part


def test_off_shows_both_runs(html: str) -> None:
    assert rows_of(html, "off")[1:4] == [
        ["loss, step 1", "0x1.8p+0", "0x1.8p+0", "equal"],
        ["loss, step 2", "0x1.4p+0", "0x1.4p+0", "equal"],
        ["SHA-256 of all weights at the end", "cc", "cc", "equal"],
    ]


def test_every_kind_of_choice_that_the_scheduler_makes_has_its_words() -> None:
    source = Path(__file__).resolve().parents[2] / "overlays" / "common" / "infodyn" / "dynamic_scheduler.py"
    named = re.search(r"``kind`` is ([\w, ]+) or (\w+);", source.read_text(encoding="utf-8"))
    assert named
    assert {*named[1].split(", "), named[2]} == set(infodyn_timeline.KINDS)
