"""Charts: where lines, intervals and names lie, against positions calculated by hand."""

from __future__ import annotations

import re

import pytest

from look import charts
from look.axes import Axis, spread
from look.words import Words


def test_lines_are_drawn_where_their_values_belong() -> None:
    rising = [(0, 0.0), (50, 0.5), (100, 1.0)]
    svg = charts.lines([charts.Line("a", [rising, [(0, 0.5)]]), charts.Line("b", [[(0, float("nan"))]], 1)], "t", "u")
    found = re.search(r'class="line series0" d="M([^"]+)"', svg)
    assert found
    points = [tuple(map(float, point.split())) for point in found[1].split("L")]
    assert points == [(52, 216), (234.4, 121), (416.8, 26)]
    assert "series1" not in svg
    assert 'cx="52.0" cy="121.0"' in svg
    assert ">a 0.75<" in svg
    assert "Nothing was recorded" in charts.lines([charts.Line("b", [[]])], "t", "u")


def test_intervals_are_drawn_where_their_values_belong() -> None:
    svg = charts.intervals([charts.Bar("x", 0.5, 0.25, [0.5]), charts.Bar("y", 1.0, None, [1.0])], "t", "u")
    assert "M132.7 27.0H353.6" in svg
    assert 'cx="243.1" cy="27.0" r="5"' in svg
    assert svg.count("H353.6") == 1


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
    axis = Axis.over(values)
    assert axis.ticks() == pytest.approx(ticks)
    assert axis.low <= min(values)
    assert axis.high >= max(values)


def test_labels_of_an_axis_far_from_zero_differ_and_have_room() -> None:
    svg = charts.lines([charts.Line("a", [[(0, 5.095638), (10, 5.095631)]])], "t", "u", zero=False)
    labels = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="end">([\d.]+)<', svg)
    assert [text for _, text in labels][:2] == ["5.09563", "5.095632"]
    assert len({text for _, text in labels}) == len(labels) >= 5
    # 8 letters of at most 8.2 units end here.
    assert all(float(x) >= 8 * 8.2 for x, _ in labels)


def ends(svg: str) -> list[tuple[float, float, str]]:
    """x, y and text of the names at the ends of lines."""
    found = re.findall(r'<text class="name series\d" x="([\d.]+)" y="([\d.]+)">([^<]*)<', svg)
    return [(float(x), float(y), text) for x, y, text in found]


def test_names_of_lines_that_end_at_one_place_are_kept_apart() -> None:
    course = [(0, 5.0), (10, 0.0)]
    svg = charts.lines([charts.Line("off", [course], dashed=True), charts.Line("on", [course], 1)], "t", "u")
    (_, first, _), (_, second, _) = ends(svg)
    assert abs(first - second) >= 15
    assert max(first, second) <= 26 + 190 + 4
    assert re.findall(r'class="line (series\d(?: dashed)?)"', svg) == ["series0 dashed", "series1"]


@pytest.mark.parametrize("name", ["on", "a name that is rather long for a chart", "学习率调度的名称也可以很长很长"])
def test_a_name_has_room_beside_its_line(name: str) -> None:
    svg = charts.lines([charts.Line(name, [[(0, 1.0), (10, 0.5)]])], "t", "u")
    width = re.search(r'viewBox="0 0 (\d+) ', svg)
    assert width
    ((x, _, text),) = ends(svg)
    # DejaVu Sans Bold, a wide face, has 0.68 of its size for a small letter on average; a Chinese letter is a square.
    needed = sum(13 if ord(letter) > 0x2E7F else 0.68 * 13 for letter in text)
    assert int(width[1]) >= x + needed
    assert 'style="max-width:' in svg


def test_spread_moves_as_little_as_it_must() -> None:
    assert spread([10, 50, 90], 15, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 15, 0, 100) == [50, 65]
    assert spread([99, 100], 15, 0, 100) == [85, 100]


def test_what_a_chart_says_by_itself_is_in_the_language_of_the_page() -> None:
    words = Words("zh")
    assert "没有记录" in charts.lines([], "t", "u", words=words)
    assert "未测量" in charts.intervals([], "t", "u", words=words)
    assert "没有大于零的值" in charts.points_on_log({}, "t", "a", "u", words=words)
    assert ">优化器步<" in charts.lines([charts.Line("a", [[(0, 1.0)]])], "t", "u", words=words)
