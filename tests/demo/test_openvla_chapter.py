"""The chapter on openvla on made-up facts: which tree it says, and that its numbers and pictures are those facts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from demo import openvla_chapter, parts, report
from look.words import ENGLISH
from tests.demo import openvla_facts, sample_facts
from tests.pages import check_whole


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return openvla_facts.make(real=True)


@pytest.fixture(scope="module")
def html(facts: dict[str, Any]) -> str:
    return openvla_chapter.chapter(facts)


def part_of(html: str, name: str) -> str:
    """The section with an id, up to the next one."""
    return html[html.index(f'id="openvla-{name}"') :].split("<h2", 1)[0]


def test_every_element_is_closed_and_only_the_runners_report_is_linked(html: str) -> None:
    check_whole(report.page(sample_facts.make(), html), linked=("openvla-report.html",))


def test_a_page_without_the_chapter_does_not_point_at_it() -> None:
    assert "#openvla" not in report.page(sample_facts.make())


def test_the_real_tree_is_named_with_its_commit_before_anything_else(html: str) -> None:
    head = html[: html.index("<h2")]
    assert "on the real openvla" in head
    assert "c8f03f48af692657d3060c19588038c7220e9af9" in head
    assert "stand-in" not in html


def test_a_stand_in_is_called_one_with_the_reason_and_the_remedy() -> None:
    html = openvla_chapter.chapter(openvla_facts.make(real=False))
    head = html[: html.index("<p>")]
    assert "on a stand-in, not on openvla" in head
    assert "upstreams/openvla is not there" in head
    assert "<code>make openvla</code>" in head
    assert "real openvla</b>" not in html


def test_the_figures_are_those_of_the_facts(html: str) -> None:
    cards = re.findall(r'<div class="card"><b>([^<]*)</b><span>([^<]*)</span>', html)
    assert [value for value, _ in cards] == ["2", "2", "48 s", "50%"]
    assert "surgery = attach(vla, &quot;&lt;b&gt;&quot;)</i>" in part_of(html, "graft")
    training = part_of(html, "training")
    assert "13.750 \u2192 5.375" in training
    assert "13.750 \u2192 5.250" in training
    assert training.count('class="line ') == 2
    assert all(f"<code>python {stage}</code>" in training for stage in ("probe", "train/method/seed0"))


def test_every_direction_is_drawn_in_the_colour_of_its_part_at_its_place(html: str) -> None:
    part = part_of(html, "icsm")
    dots = re.findall(r'class="dot series(\d)" cx="([\d.]+)" cy="([\d.]+)"', part)
    assert len(dots) == 6
    # By index of the singular value: direction 2 is fragile, 5 and 0 are plastic, the rest is null.
    assert [colour for colour, _, _ in sorted(dots, key=lambda dot: float(dot[1]))] == ["3", "0", "1", "0", "0", "3"]
    by_height = [x for _, x, _ in sorted(dots, key=lambda dot: float(dot[2]))]
    by_index = sorted((x for _, x, _ in dots), key=float)
    assert by_height == [by_index[index] for index in openvla_facts.ORDER]
    assert "<td>1</td><td>0, 1</td><td>1</td><td>2</td><td>3</td>" in part


def test_drift_factors_and_norms_are_drawn_to_their_last_values(html: str) -> None:
    drift = part_of(html, "drift")
    assert drift.count('class="line ') == 3
    assert [name for name in ("method 1.25", "method 0.25", "method 0.1") if f">{name}<" not in drift] == []
    norms = part_of(html, "norms")
    names = re.findall(r'class="name series\d"[^>]*>([^<]*)<', norms)
    assert sorted(names) == ["after 1", "fragile 0.8", "null 1.73", "plastic 0.6", "||g|| 2"]


def test_a_failure_stands_in_the_chapters_place() -> None:
    html = report.page(sample_facts.make(), parts.failed(openvla_chapter.title(ENGLISH), "icsm ended with 1 <tail>"))
    assert "icsm ended with 1 &lt;tail&gt;" in html
    assert html.index('id="versions"') < html.index('id="openvla"')
    assert "did not end well" in html
    assert "Not done when this page was written" in parts.pending(openvla_chapter.title(ENGLISH))
