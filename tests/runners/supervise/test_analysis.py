"""The page of a plateau: its numbers against a reference, both languages, drawn by a browser."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from look.words import Words
from runners.supervise import analysis
from runners.supervise.analysis_page import page
from runners.supervise.metrics.curve import Curve, thinned
from runners.supervise.metrics.row import Row
from runners.supervise.plateau import LEFT_OUT, SAID, Settings, Watch
from tests.browser import Browser
from tests.pages import Reader, check_drawn, check_whole, needs_chromium

NAN = float("nan")


@dataclass(frozen=True)
class Judged:
    """A verdict with the fields that the page reads."""

    plateau: bool = True
    step: int = 6000
    since: int = 4000
    slope: float = 2e-6
    low: float = -3e-6
    high: float = 7e-6
    statistic: float = 4.5
    p: float = 0.001
    level: float = 0.003
    reason: str = "the loss has stopped falling"
    said: tuple[tuple[str, dict[str, str]], ...] = ((SAID["stopped"], {}), (LEFT_OUT, {"count": "<3>"}))


TRIED: list[dict[str, Any]] = [
    {
        "name": "half the rate",
        "changes": {"rate": 0.5, "lr_scheduler_type": "cosine"},
        "why": "loss 1.21, -0.04 ± 0.01 against as given: the best so far",
        "better": True,
        "loss": 1.21,
        "step": 7000,
    },
    {"name": "<rank 64>", "changes": {"rank": 64}, "why": "not judged: it died", "better": False},
]


def course() -> Curve:
    """A loss that falls to 1.25 within 4,000 steps, with noise, a spike and one NaN; norms of twelve groups."""
    noise, curve, rows = random.Random(3), Curve(), []
    for step in range(10, 6010, 10):
        values = {
            "loss": 1.25 + 2.5 * math.exp(-step / 700) + noise.gauss(0, 0.04),
            "learning_rate": 1e-4 * (1 - step / 9000),
            "gradient_norm": 0.8 + noise.gauss(0, 0.1),
            "percentage": step / 90,
            **{f"gradient_norm/layer_{layer}/g": 0.1 * layer + 0.01 for layer in range(12)},
        }
        if step == 2000:
            values["loss"] = 9.0
        if step == 3000:
            values["loss"] = NAN
        if step % 500 == 0:
            values |= {"drift": step / 5e4, "eval_loss/sort": 1.5, "success": 0.5}
        rows.append(Row(step, values))
    curve.add(rows)
    return curve


@pytest.fixture(scope="module")
def curve() -> Curve:
    return course()


def test_numbers_agree_with_a_reference(curve: Curve, tmp_path: Path) -> None:
    path = analysis.write(tmp_path / "new", curve, Judged(), TRIED)
    assert path == tmp_path / "new" / "analysis.html"
    found = json.loads((tmp_path / "new" / "analysis.json").read_text(encoding="utf-8"))
    loss = [(step, value) for step, value in curve.series("loss") if value == value]
    inside = [(step, value) for step, value in loss if 4000 <= step <= 6000]
    assert found["window"]["first"] == 4000
    assert found["window"]["last"] == 6000
    assert found["window"]["rows"] == len(inside) == 201
    assert found["window"]["middle"] == pytest.approx(5000.0)
    heights = [value - 2e-6 * (step - 5000) for step, value in inside]
    assert found["window"]["level"] == pytest.approx(sorted(heights)[100], rel=1e-12)
    assert found["slope"] == {"is": 2e-6, "low": -3e-6, "high": 7e-6}
    assert (found["plateau"], found["step"], found["statistic"]) == (True, 6000, 4.5)
    assert (found["p"], found["level"]) == (0.001, 0.003)
    lowest = min(loss, key=lambda point: point[1])
    assert found["loss"] == {
        "last": loss[-1][1],
        "lowest": lowest[1],
        "lowest_step": lowest[0],
        "not_finite": 1,
    }
    assert found["others"]["learning_rate"] == {
        "last": pytest.approx(1e-4 / 3),
        "before": pytest.approx(1e-4 * (1 - 2000 / 9000)),
        "inside": pytest.approx(1e-4 * (1 - 5000 / 9000)),
    }
    assert "percentage" not in found["series"]
    assert len(found["series"]["loss"]) == 600
    assert found["series"]["loss"][299] == [3000, None]
    assert found["series"]["drift"] == [[step, step / 5e4] for step in range(500, 6001, 500)]
    assert [each["loss"] for each in found["tried"]] == [pytest.approx(1.21), None]


def test_page_says_the_numbers(curve: Curve) -> None:
    html = page(analysis.facts(curve, Judged(), TRIED), Words("en"))
    check_whole(html)
    rows = {row[0]: row[1:] for row in Reader(html).rows}
    found = analysis.facts(curve, Judged(), TRIED)
    assert rows["slope, loss per 1000 steps"] == ["0.002"]
    assert rows["interval of the slope"] == ["-0.003 to 0.007"]
    assert rows["steps that were judged"] == ["4000 to 6000, 201 values of the loss"]
    assert rows["lowest loss"] == [f"{found['loss']['lowest']:.4g} at step {found['loss']['lowest_step']}"]
    assert rows["losses that are no number"] == ["1"]
    assert rows["p value"] == ["0.001, to be below 0.003"]
    assert rows["drift"] == ["0.04", "0.1", "0.12"]
    assert rows["half the rate"] == [
        "rate=0.5lr_scheduler_type=cosine",
        "1.21",
        "7000",
        "loss 1.21, -0.04 ± 0.01 against as given: the best so far",
    ]
    assert rows["<rank 64>"] == ["rank=64", "", "", "not judged: it died"]
    assert "the loss has stopped falling; &lt;3&gt; rows without a finite loss were left out" in html
    # 13 series of gradient norms, 8 colours.
    assert "5 further series are in the table below." in html
    assert len(re.findall(r'<path class="band', html)) == 2


def test_where_nothing_was_judged_the_page_says_so(tmp_path: Path) -> None:
    none = Judged(
        plateau=False,
        step=0,
        since=0,
        slope=NAN,
        low=NAN,
        high=NAN,
        statistic=NAN,
        p=NAN,
        level=NAN,
        reason="no look",
        said=(),
    )
    path = analysis.write(tmp_path, Curve(), none)
    html = path.read_text(encoding="utf-8")
    check_whole(html)
    rows = {row[0]: row[1:] for row in Reader(html).rows}
    assert rows["slope, loss per 1000 steps"] == ["not known"]
    assert rows["lowest loss"] == ["not known"]
    assert "Nothing was tried yet." in html
    assert "Has the loss stopped falling?" in html
    found = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    assert found["window"] is None
    assert found["series"] == {"loss": []}


def test_chinese_page_has_the_same_numbers_and_no_english_heads(curve: Curve) -> None:
    found = analysis.facts(curve, Judged(), TRIED)
    english, chinese = (page(found, Words(lang)) for lang in ("en", "zh"))
    check_whole(chinese)
    assert '<html lang="zh-CN">' in chinese
    assert "损失已停止下降；略去 &lt;3&gt; 行非有限的损失" in chinese
    assert "stopped falling" not in chinese
    numbers = [
        sorted(re.findall(r"\d+\.\d+", " ".join(" ".join(row) for row in Reader(html).rows)))
        for html in (english, chinese)
    ]
    assert numbers[0] == numbers[1]
    heads = re.findall(r"<(?:h1|h2|h3|th)[^>]*>([^<]*)<", chinese)
    assert len(heads) > 20
    assert [head for head in heads if re.search("[a-zA-Z]{2}", head)] == []


def test_thinned_keeps_ends_and_spikes() -> None:
    points = [(float(step), math.sin(step / 900)) for step in range(10_000)]
    points[5003] = (5003.0, 40.0)
    points[7001] = (7001.0, -40.0)
    kept = thinned(points, 500)
    assert 400 <= len(kept) <= 502
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert {points[0], points[-1], points[5003], points[7001]} <= set(kept)
    assert thinned(points[:500], 500) == points[:500]


@needs_chromium
def test_page_is_drawn_by_a_browser(curve: Curve, browser: Browser, tmp_path: Path) -> None:
    found = analysis.facts(curve, Judged(), TRIED)
    check_drawn(browser, {lang: page(found, Words(lang)) for lang in ("en", "zh")}, tmp_path, "analysis")


def test_the_verdict_of_a_watch_is_drawn(curve: Curve, tmp_path: Path) -> None:
    watch = Watch(Settings(), 6000)
    verdict = watch.verdict()
    for step, loss in curve.series("loss"):
        watch.add(step, loss)
        verdict = watch.verdict()
        if verdict.plateau:
            break
    assert verdict.plateau
    analysis.write(tmp_path, curve, verdict)
    found = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    window = found["window"]
    assert 0 < window["first"] == verdict.since < window["last"] == found["step"] == verdict.step
    assert found["slope"]["low"] < found["slope"]["is"] < found["slope"]["high"]
    assert window["level"] == pytest.approx(1.25, abs=0.1)
