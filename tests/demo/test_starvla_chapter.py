"""The chapter on starVLA on made-up facts: which tree it says, and that its numbers and pictures are those facts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from demo import openvla_chapter, report, starvla_chapter
from tests.demo import openvla_facts, sample_facts, starvla_facts
from tests.pages import check_whole


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return starvla_facts.make(real=True)


@pytest.fixture(scope="module")
def html(facts: dict[str, Any]) -> str:
    return starvla_chapter.chapter(facts)


def part_of(html: str, name: str) -> str:
    """The section with an id, up to the next one."""
    return html[html.index(f'id="starvla-{name}"') :].split("<h2", 1)[0]


def test_every_element_is_closed_and_nothing_is_loaded(html: str) -> None:
    check_whole(report.page(sample_facts.make(), html))


def test_both_chapters_are_linked_from_the_top() -> None:
    chapters = openvla_chapter.chapter(openvla_facts.make(real=True)) + starvla_chapter.chapter(
        starvla_facts.make(real=False)
    )
    page = report.page(sample_facts.make(), chapters)
    top = page[: page.index('<h2 id="graft"')]
    assert '<a href="#openvla">openvla: gradient surgery</a>' in top
    assert '<a href="#starvla">starVLA: SA-GR Flow</a>' in top
    assert "#starvla" not in report.page(sample_facts.make())


def test_the_real_tree_is_named_with_its_commit_before_anything_else(html: str) -> None:
    head = html[: html.index("<p>")]
    assert "on the real starVLA" in head
    assert "61ea14279a22739316f9c1ca74c18d535247fe05" in head
    assert "stand-in" not in html


def test_a_stand_in_is_called_one_with_the_reason_and_the_remedy() -> None:
    head = starvla_chapter.chapter(starvla_facts.make(real=False))
    head = head[: head.index("<p>")]
    assert "on a stand-in, not on starVLA" in head
    assert "upstreams/starVLA is not there" in head
    assert "<code>make starvla</code>" in head
    assert "real starVLA</b>" not in head


def test_the_figures_are_those_of_the_facts(html: str) -> None:
    cards = re.findall(r'<div class="card"><b>([^<]*)</b><span>([^<]*)</span>', html)
    assert [value for value, _ in cards] == ["2", "2", "42 s", "0.04 \u2192 0.015"]
    assert cards[2][1] == "for 6 training runs and one policy"
    assert "**sagr_metrics(self, &quot;&lt;b&gt;&quot;),</i>" in part_of(html, "graft")


def test_off_shows_both_runs_and_says_where_they_differ(facts: dict[str, Any], html: str) -> None:
    part = part_of(html, "off")
    assert part.count("<code>0x1.8p+0</code>") == part.count("<code>cc</code>") == 2
    assert part.count("equal") == 3
    assert "differs" not in part
    other = {**facts["off"], "grafted": {"loss": ["0x1.8p+0", "0x1.4p+1"], "weights": ["aa", "dd"]}}
    part = part_of(starvla_chapter.chapter({**facts, "off": other}), "off")
    assert part.count("<b>differs</b>") == 2
    assert part.count("equal") == 1


def test_every_stage_has_its_curve_weights_and_change(html: str) -> None:
    part = part_of(html, "stages")
    assert part.count('class="line ') == 4
    assert part.count("total 0.5<") == 4
    # (3 + 2.5) / 2 and (0.75 + 0.5) / 2.
    assert part.count("<td>2.75 \u2192 0.625</td>") == 4
    assert "1&thinsp;&times;&thinsp;fm + 0.2&thinsp;&times;&thinsp;dyn" in part
    assert "reg" not in part
    assert "what imitation does &lt;now&gt;" in part
    assert "<td>action_model, fusion_module</td>" in part
    assert "--framework.sagr.stage=correction" in part


def test_the_anchors_pictures_are_drawn_in_order_with_their_words(html: str) -> None:
    part = part_of(html, "anchor")
    shown = re.findall(r'<image width="4" height="2" href="data:image/png;base64,([^"]+)"/>', part)
    assert shown == [starvla_facts.image(shade) for shade in (10, 20, 30)]
    assert "reach the &lt;red&gt; block&rdquo;: the largest of 8 &times; 8 patches gets 25.0%" in part
    assert "would give it 1.6%" in part


def test_guidance_and_decisions_are_told_with_their_numbers(html: str) -> None:
    part = part_of(html, "guidance")
    assert "0.04 without and 0.015 with it" in part
    assert "<td>1</td><td>0.04</td><td>1.5</td><td>3</td><td>0.25</td>" in part
    assert "<td>2</td><td>0.03</td><td>0.75</td><td>2</td><td>-0.5</td>" in part
    part = part_of(html, "replanning")
    assert "<td><b>as it came</b></td><td>0.5</td><td>2.5</td><td><b>continue</b></td>" in part
    assert "<td><b>shifted</b></td><td>7</td><td>2.5</td><td><b>restart</b></td>" in part
    assert "&quot;rrr&quot;: 7.0" in part


def test_the_metrics_are_the_last_line_of_the_last_stage(html: str) -> None:
    part = part_of(html, "metrics")
    assert "<td><code>step</code></td><td>6</td>" in part
    assert "<td><code>stage</code></td><td>correction</td>" in part
    assert "<td><code>debug/sagr/mse_dyn</code></td><td>0.125</td>" in part
    assert "<td><code>geo/energy_trace</code></td><td>0.04, 0.03</td>" in part
